import type { ModelConfig } from './config.ts'

/** What a model will need, in bytes, known before any weight is read. */
export interface MemoryPlan {
  weights: number
  /** Keys and values of one sequence at its full context. */
  cache: number
  /** Activations of one forward pass, and what the loader holds at a time. */
  scratch: number
  total: number
}

/**
 * @param weightBytes what the weights take on the device
 * @param elementBytes of a cached number: 4 for float32
 */
export function planMemory(
  config: ModelConfig,
  options: { weightBytes: number; contextLength: number; maxChunk: number; elementBytes: number },
): MemoryPlan {
  const { contextLength, maxChunk, elementBytes, weightBytes } = options
  const fullLayers = Math.floor(config.numHiddenLayers / 2)
  const windowedLayers = config.numHiddenLayers - fullLayers
  const tokenBytes = 2 * config.numKeyValueHeads * config.headDim * elementBytes // key and value in one layer
  const cache =
    tokenBytes * (fullLayers * contextLength + windowedLayers * (config.slidingWindow - 1 + maxChunk))
  const widest = Math.max(
    config.expertsPerToken * (2 * config.intermediateSize + config.hiddenSize),
    (config.numAttentionHeads + 2 * config.numKeyValueHeads) * config.headDim,
  )
  const scratch = 4 * (maxChunk * 4 * widest + 2 * config.vocabSize)
  return { weights: weightBytes, cache, scratch, total: weightBytes + cache + scratch }
}

/** The longest context whose plan stays within `available` bytes, at most the model's own; 0 where nothing fits. */
export function contextThatFits(
  config: ModelConfig,
  available: number,
  options: { weightBytes: number; maxChunk: number; elementBytes: number },
): number {
  const fixed = planMemory(config, { ...options, contextLength: 0 }).total
  const perToken = planMemory(config, { ...options, contextLength: 1 }).total - fixed
  if (available < fixed) return 0
  if (perToken === 0) return config.maxPositionEmbeddings
  return Math.min(config.maxPositionEmbeddings, Math.floor((available - fixed) / perToken))
}
