import { openCheckpoint } from './checkpoint/checkpoint.ts'
import type { Folder } from './checkpoint/source.ts'
import { LocalEngine } from './engine/local-engine.ts'
import type { Device, WeightBytes } from './kernels/ops.ts'
import { readConfig } from './model/config.ts'
import { chooseContext, type MemoryPlan, showBytes } from './model/memory.ts'
import { modelName } from './model/name.ts'
import { checkTensors } from './model/tensors.ts'
import { Transformer } from './model/transformer.ts'
import { loadWeights, planWeights, type WeightPlan } from './model/weights.ts'

const maxSessions = 8 // with a name; one more without

export interface OpenOptions {
  folder: Folder
  /** Closed where loading fails. */
  device: Device
  /** Tokens; by default as many as the model was made for and the memory allows. */
  contextLength?: number
  availableMemory: number
  /** Told in bytes of the files. */
  onProgress?: (done: number, total: number) => void
  /** Tokens a forward pass takes at most; the device's choice by default. */
  maxChunk?: number
}

export interface OpenedModel {
  model: Transformer
  contextLength: number
  maxChunk: number
  plan: MemoryPlan
  weights: WeightPlan
  /** Why the model runs slower than this machine could, if it does. */
  notice?: string
}

/**
 * Loads the model in a folder onto a device. Memory is planned from the headers, and a model that does not fit is refused
 * before a weight is read. Weights that are used where their file is mapped need not fit: the system reads them again.
 */
export async function openModel(options: OpenOptions): Promise<OpenedModel> {
  const { folder, device, availableMemory, onProgress, maxChunk = device.maxChunk } = options
  const checkpoint = await openCheckpoint(folder)
  try {
    const config = readConfig(checkpoint.config, checkpoint.configPath)
    checkTensors(checkpoint, config)
    const bytes = planWeights(device, checkpoint, config)
    const elementBytes = device.cacheElementBytes
    const sizes = { weightBytes: bytes.own, maxChunk, elementBytes, numSessions: maxSessions + 1 }
    const { contextLength, plan } = chooseContext(config, availableMemory, sizes, options.contextLength)
    const missing = bytes.mapped + plan.total - availableMemory
    const weights = await loadWeights(device, checkpoint, config, {
      populate: missing <= 0,
      onProgress: done => onProgress?.(done, checkpoint.byteLength),
    })
    const model = new Transformer(device, config, weights)
    return {
      model,
      contextLength,
      maxChunk,
      plan,
      weights: bytes,
      ...(missing > 0 && { notice: paging(bytes, missing) }),
    }
  } catch (error) {
    device.close()
    throw error
  } finally {
    await checkpoint.close()
  }
}

function paging({ mapped }: WeightBytes, missing: number): string {
  return (
    `${showBytes(missing)} of the model's ${showBytes(mapped)} of experts find no room in memory and are read from the ` +
    'disk again and again: close other programs, or expect the speed of the disk'
  )
}

/** Loads the model in a folder and gives the engine that runs it. `notice`: what the caller already knows to tell. */
export async function openEngine(options: OpenOptions & { notice?: string }): Promise<LocalEngine> {
  const { device } = options
  const { model, contextLength, maxChunk, notice = options.notice } = await openModel(options)
  return new LocalEngine(model, {
    model: modelName(model.config),
    device: device.name,
    ...(notice && { notice }),
    contextLength,
    maxChunk,
    maxSessions,
  })
}
