import { openCheckpoint } from './checkpoint/checkpoint.ts'
import type { Folder } from './checkpoint/source.ts'
import { ReferenceDevice } from './device/reference.ts'
import { LocalEngine } from './engine/local-engine.ts'
import { readConfig } from './model/config.ts'
import { chooseContext } from './model/memory.ts'
import { modelName } from './model/name.ts'
import { checkTensors } from './model/tensors.ts'
import { Transformer } from './model/transformer.ts'
import { loadWeights } from './model/weights.ts'

const maxChunk = 64 // tokens: progress and cancelling within a prefill stay fine-grained on the reference device
const maxSessions = 8 // with a name; one more without
const elementBytes = 4 // the reference device caches float32

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
    const sizes = { weightBytes: checkpoint.byteLength, maxChunk, elementBytes, numSessions: maxSessions + 1 }
    const { contextLength } = chooseContext(config, availableMemory, sizes, options.contextLength)
    const device = new ReferenceDevice()
    const weights = await loadWeights(device, checkpoint, config, done => onProgress?.(done, checkpoint.byteLength))
    return new LocalEngine(new Transformer(device, config, weights), {
      model: modelName(config),
      device: device.name,
      contextLength,
      maxChunk,
      maxSessions,
    })
  } finally {
    await checkpoint.close()
  }
}
