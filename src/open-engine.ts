import { type Checkpoint, openCheckpoint } from './checkpoint/checkpoint.ts'
import { assumedReadSpeed, readSpeed } from './checkpoint/read-speed.ts'
import type { Folder } from './checkpoint/source.ts'
import type { DeviceOptions } from './device/options.ts'
import { LocalEngine } from './engine/local-engine.ts'
import type { SessionFiles } from './engine/saved-session.ts'
import type { Device } from './kernels/ops.ts'
import { type ModelConfig, readConfig } from './model/config.ts'
import { chooseContext, type MemoryPlan, showBytes } from './model/memory.ts'
import { modelName } from './model/name.ts'
import { checkTensors } from './model/tensors.ts'
import { Transformer } from './model/transformer.ts'
import {
  loadWeights,
  type Paging,
  planPaging,
  planWeights,
  roundableMatrices,
  type WeightPlan,
} from './model/weights.ts'

/** What whoever loads a model tells the worker that will run it. */
export interface WorkerOptions extends DeviceOptions {
  path: string
  contextLength?: number
  maxSessions?: number
}

export interface OpenOptions {
  folder: Folder
  /** Opens it, converting what it has to, if it can; `openCheckpoint` by default, which does not. */
  open?: (folder: Folder, options: ConvertOptions) => Promise<Checkpoint>
  /** Closed where loading fails. */
  device: Device
  /** Tokens; by default as many as the model was made for and the memory allows. */
  contextLength?: number
  availableMemory: number
  /** Told in bytes of the files. */
  onProgress?: (done: number, total: number) => void
  /** Ends loading between two tensors; it rejects with `signal.reason`. */
  signal?: AbortSignal
  /** Tokens a forward pass takes at most; the device's choice by default. */
  maxChunk?: number
  /** Requests that run together. 8 by default. */
  maxSessions?: number
  /** Where sessions of this checkpoint are saved, if they can be. */
  sessionFiles?: (checkpoint: Checkpoint, config: ModelConfig) => Promise<SessionFiles>
}

/** How a checkpoint is converted: `check` throws where what it will be is no model for this machine. */
interface ConvertOptions {
  check: (checkpoint: Checkpoint) => void
  onProgress: (done: number, total: number) => void
  signal?: AbortSignal
}

export interface OpenedModel {
  model: Transformer
  contextLength: number
  maxChunk: number
  maxSessions: number
  plan: MemoryPlan
  weights: WeightPlan
  /** Why the model runs slower than this machine could, if it does. */
  notice?: string
  files?: SessionFiles
  /** Where files of our own making lie, or why there are none, if there is something to tell. */
  kept?: string
}

/**
 * Loads the model in a folder onto a device. Memory is planned from the headers, and a model that does not fit is refused
 * before a weight is read. Weights that are used where their file is mapped need not fit: the system reads them again.
 */
export async function openModel(options: OpenOptions): Promise<OpenedModel> {
  const { folder, device, availableMemory, onProgress, signal, maxChunk = device.maxChunk, maxSessions = 8 } = options
  const check = (checkpoint: Checkpoint) => {
    const config = readConfig(checkpoint.config, checkpoint.configPath)
    checkTensors(checkpoint, config)
    return config
  }
  const planMemory = (checkpoint: Checkpoint, config: ModelConfig) => {
    const bytes = planWeights(device, checkpoint, config)
    const sizes = { device, weights: bytes, maxChunk, maxSessions }
    return { bytes, ...chooseContext(config, availableMemory, sizes, options.contextLength) }
  }
  let converted = 0
  let checkpoint: Checkpoint | undefined
  try {
    checkpoint = await (options.open ?? openCheckpoint)(folder, {
      check: planned => planMemory(planned, check(planned)),
      onProgress: (done, total) => onProgress?.((converted = done), total),
      signal,
    })
    const config = check(checkpoint)
    const files = await options.sessionFiles?.(checkpoint, config)
    const recalled = await device.recall?.(roundableMatrices(checkpoint, config))
    const kept = [checkpoint.note, recalled].filter(Boolean).join('; ')
    const { bytes, contextLength, plan } = planMemory(checkpoint, config)
    const paging = planPaging(bytes, plan.total, availableMemory)
    const notice = paging && (await explainPaging(checkpoint, bytes, paging))
    const weightBytes = checkpoint.byteLength
    const weights = await loadWeights(device, checkpoint, config, {
      populate: !paging,
      signal,
      onProgress: done => onProgress?.(converted + done, converted + weightBytes),
    })
    const model = new Transformer(device, config, weights)
    return {
      model,
      contextLength,
      maxChunk,
      maxSessions,
      plan,
      weights: bytes,
      ...(files && { files }),
      ...(notice && { notice }),
      ...(kept && { kept }),
    }
  } catch (error) {
    device.close()
    throw error
  } finally {
    await checkpoint?.close()
  }
}

/** What to expect where some of the mapped weights have no room in memory. */
async function explainPaging(checkpoint: Checkpoint, weights: WeightPlan, paging: Paging): Promise<string> {
  const { mapped, mappedEmbedding } = weights
  const { missing, perToken } = paging
  const measured = await readSpeed([...checkpoint.tensors.values()].filter(tensor => tensor.dataType === 'U8'))
  const disk = measured ?? assumedReadSpeed
  const speed = `${(disk / 1e9).toPrecision(2)} GB/s`
  const source = measured
    ? `reads gave ${speed} just now`
    : `the disk is taken to read ${speed}, for want of written files`
  return (
    `${showBytes(missing)} of the ${showBytes(mapped - mappedEmbedding)} of weights that are used where they lie on the ` +
    `disk find no room in memory, and are read again and again. Expect some ${showSpeed(disk / perToken)} at most: ` +
    `${source}. Close other programs, or take a machine with more memory`
  )
}

function showSpeed(tokensPerSecond: number): string {
  if (tokensPerSecond < 0.5) return `${Math.round(1 / tokensPerSecond)} seconds a token`
  return `${tokensPerSecond < 10 ? tokensPerSecond.toPrecision(2) : Math.round(tokensPerSecond)} tokens a second`
}

/** Loads the model in a folder and gives the engine that runs it. `notice`: what the caller already knows to tell. */
export async function openEngine(options: OpenOptions & { notice?: string }): Promise<LocalEngine> {
  const { device } = options
  const opened = await openModel(options)
  const { model, contextLength, maxChunk, maxSessions, plan, notice = options.notice, kept, files } = opened
  return new LocalEngine(model, {
    model: modelName(model.config),
    device: device.name,
    ...(notice && { notice }),
    ...(kept && { kept }),
    contextLength,
    memory: { private: plan.total, mapped: plan.mapped },
    maxChunk,
    maxSessions,
    cacheBytes: plan.cache,
    ...(files && { saving: { files, cacheFormat: device.cacheFormat } }),
  })
}
