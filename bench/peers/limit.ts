import type { ModelConfig } from '../../src/model/config.ts'

/**
 * What one decoded token cannot do without reading: the chosen experts in MXFP4 (17 bytes for 32 values), and attention's
 * matrices and the unembedding in 8 bits with a scale of 2 bytes for every 32. For 20b 1.27 and 1.29 GB.
 */
export function bytesPerToken(config: ModelConfig): { experts: number; matrices: number } {
  const { hiddenSize, intermediateSize, vocabSize, numAttentionHeads, numKeyValueHeads, headDim } = config
  const qkvSize = (numAttentionHeads + 2 * numKeyValueHeads) * headDim
  const expert = 3 * hiddenSize * intermediateSize
  const attention = hiddenSize * (qkvSize + numAttentionHeads * headDim)
  return {
    experts: config.numHiddenLayers * config.expertsPerToken * expert * (17 / 32),
    matrices: (config.numHiddenLayers * attention + vocabSize * hiddenSize) * (34 / 32),
  }
}
