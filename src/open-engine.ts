import { DeviceError, RequestError } from './base/errors.ts'
import { openCheckpoint } from './checkpoint/checkpoint.ts'
import type { Folder } from './checkpoint/source.ts'
import { ReferenceDevice } from './device/reference.ts'
import { LocalEngine } from './engine/local-engine.ts'
import { readConfig } from './model/config.ts'
import { contextThatFits, planMemory } from './model/memory.ts'
import { modelName } from './model/name.ts'
import { checkTensors } from './model/tensors.ts'
import { Transformer } from './model/transformer.ts'
import { loadWeights } from './model/weights.ts'

const maxChunk = 64 // tokens: progress and cancelling within a prefill stay fine-grained on the reference device
const elementBytes = 4 // the reference device caches float32
const mib = 2 ** 20

/**
 * Loads the model in a folder onto a device and gives the engine that runs it. Memory is planned from the headers, and a
 * model that does not fit is refused before a weight is read.
 */
export async function openEngine(options: {
  folder: Folder
  /** Tokens; by default as many as the model was made for and the memory allows. */
  contextLength?: number
  availableMemory: number
  onProgress?: (done: number, total: number) => void
}): Promise<LocalEngine> {
  const { folder, availableMemory, onProgress } = options
  const checkpoint = await openCheckpoint(folder)
  try {
    const config = readConfig(checkpoint.config, checkpoint.configPath)
    checkTensors(checkpoint, config)
    const sizes = { weightBytes: checkpoint.byteLength, maxChunk, elementBytes }
    const contextLength = options.contextLength ?? contextThatFits(config, availableMemory, sizes)
    if (contextLength > config.maxPositionEmbeddings) {
      throw new RequestError(
        `a context of ${contextLength} tokens is more than the ${config.maxPositionEmbeddings} that this model was made for`,
        { param: 'contextLength' },
      )
    }
    const plan = planMemory(config, { ...sizes, contextLength: Math.max(contextLength, 1) })
    if (plan.total > availableMemory) {
      throw new DeviceError(
        `${folder.path} needs ${show(plan.total)} (weights ${show(plan.weights)}, cache for ${contextLength} tokens ` +
          `${show(plan.cache)}, scratch ${show(plan.scratch)}) and ${show(availableMemory)} are free: close other programs` +
          `${options.contextLength ? ', ask for a shorter context' : ''} or take a machine with more memory`,
      )
    }
    const device = new ReferenceDevice()
    const weights = await loadWeights(device, checkpoint, config, done => onProgress?.(done, checkpoint.byteLength))
    return new LocalEngine(new Transformer(device, config, weights), {
      model: modelName(config),
      device: device.name,
      contextLength,
      maxChunk,
    })
  } finally {
    await checkpoint.close()
  }
}

const show = (bytes: number): string =>
  bytes >= 1024 * mib ? `${(bytes / 1024 / mib).toFixed(1)} GiB` : `${Math.ceil(bytes / mib)} MiB`
