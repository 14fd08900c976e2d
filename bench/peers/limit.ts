import type { DeviceOptions } from '../../src/device/options.ts'
import type { ModelConfig } from '../../src/model/config.ts'
import { longContext, manySessions } from './measures.ts'

/** Bytes of the device's own memory, and bytes that are read where a file is mapped. */
export interface ReadBytes {
  own: number
  mapped: number
}

/** Bytes a second of plain reads of both. */
export type ReadSpeeds = ReadBytes

/** Numbers with a scale for every 32: MXFP4's of one byte, those of 8 bits have one of two. */
const mxfp4Bytes = 17 / 32
const int8Bytes = 34 / 32

/**
 * What one pass of decoding cannot do without reading: `expertsPerLayer` experts in MXFP4, as many as a token chooses
 * where nothing is said, attention's matrices and the unembedding. For a token of 20b 1.27 and 1.29 GB. Matrices of 8
 * bits lie in a mapped file too, where they are kept.
 */
export function bytesOfPass(
  config: ModelConfig,
  { precision, keep }: DeviceOptions = {},
  expertsPerLayer = config.expertsPerToken,
): ReadBytes {
  const { hiddenSize, intermediateSize, vocabSize, numHiddenLayers, numAttentionHeads, numKeyValueHeads } = config
  const expert = 3 * hiddenSize * intermediateSize
  const attention = hiddenSize * (2 * numAttentionHeads + 2 * numKeyValueHeads) * config.headDim
  const experts = numHiddenLayers * expertsPerLayer * expert * mxfp4Bytes
  const matrices = numHiddenLayers * attention + vocabSize * hiddenSize
  if (precision === 'exact') return { own: 0, mapped: experts + 2 * matrices }
  if (keep === false) return { own: int8Bytes * matrices, mapped: experts }
  return { own: 0, mapped: int8Bytes * matrices + experts }
}

/** Keys and values that a token behind `context` others reads in the full layers: 0.805 GB for 20b behind 32,768. */
export function cacheBytes(config: ModelConfig, context: number, { cache }: DeviceOptions = {}): number {
  const { numHiddenLayers, numKeyValueHeads, headDim } = config
  const numFullLayers = Math.floor(numHiddenLayers / 2)
  return numFullLayers * context * 2 * numKeyValueHeads * headDim * (cache === 'q8' ? int8Bytes : 2)
}

const seconds = (bytes: ReadBytes, speeds: ReadSpeeds) => bytes.own / speeds.own + bytes.mapped / speeds.mapped

/** What a measure of ours is worth. */
export interface Worth {
  /** The value if memory were read at the speed of a plain read and nothing else took time. */
  limit: number
  /** The most that the ratio to ourselves can be, for that reason. */
  ratioLimit?: number
  /** Attention's bytes a second over a plain read's: what more context adds to the time of a token. */
  attentionOfRead?: number
}

export function worthOf(
  name: string,
  values: Readonly<Record<string, number>>,
  speeds: ReadSpeeds,
  config: ModelConfig,
  options: DeviceOptions,
): Worth | undefined {
  const one = bytesOfPass(config, options)
  const limit = 1 / seconds(one, speeds)
  if (name === 'decode') return { limit }
  if (name === 'sessions-8') {
    const pass = bytesOfPass(config, options, values['distinct-experts'])
    const together = manySessions / seconds(pass, speeds)
    return { limit: together, ratioLimit: together / limit }
  }
  if (name === 'decode-32k') {
    const bytes = cacheBytes(config, longContext, options)
    const long = 1 / seconds({ ...one, own: one.own + bytes }, speeds)
    const attention = 1 / values['decode-32k'] - 1 / values['decode-0']
    return { limit: long, ratioLimit: long / limit, attentionOfRead: bytes / attention / speeds.own }
  }
  return undefined
}
