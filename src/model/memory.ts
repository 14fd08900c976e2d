import { DeviceError, RequestError } from '../base/errors.ts'
import type { ModelConfig } from './config.ts'
import { maxSnapshots } from './kv-cache.ts'

/** What decides how much memory a model needs, besides its configuration and its context. */
export interface MemoryOptions {
  /** What the weights take on the device. */
  weightBytes: number
  /** Tokens that a forward pass takes at most. */
  maxChunk: number
  /** Of a cached number: 4 for float32. */
  elementBytes: number
  /** Sequences that hold windows at once; their full layers share the context's tokens. */
  numSessions: number
}

/** What a model will need, in bytes, known before any weight is read. */
export interface MemoryPlan {
  weights: number
  /** Keys and values: as many tokens as the context has in the full layers, and every session's windows and snapshots. */
  cache: number
  /** Activations of one forward pass, and what lies about until the garbage collector comes. */
  scratch: number
  total: number
}

const mib = 2 ** 20
/** V8 lets so much memory outside its heap go unused, measured, before it collects. */
const garbage = 64 * mib
/** A full layer's cache grows by a sixteenth at a time. */
const growth = 17 / 16
/** A context shorter than this, or than the model's own, is of no use unless somebody asks for it. */
const shortestContext = 1024 // tokens; the instructions of a conversation alone take a hundred

export function planMemory(config: ModelConfig, contextLength: number, options: MemoryOptions): MemoryPlan {
  const { weightBytes, maxChunk, elementBytes, numSessions } = options
  const numFull = Math.floor(config.numHiddenLayers / 2)
  const numWindowed = config.numHiddenLayers - numFull
  const tokenBytes = 2 * config.numKeyValueHeads * config.headDim * elementBytes // key and value in one layer
  const snapshotTokens = config.slidingWindow + 64 // a device that keeps pages copies whole ones
  const windowTokens = numSessions * (config.slidingWindow - 1 + maxChunk + maxSnapshots * snapshotTokens)
  const cache = Math.ceil(tokenBytes * (numFull * contextLength * growth + numWindowed * windowTokens))
  const widest = Math.max(
    config.expertsPerToken * (2 * config.intermediateSize + config.hiddenSize),
    (config.numAttentionHeads + 2 * config.numKeyValueHeads) * config.headDim,
  )
  const scratch = 4 * (maxChunk * 4 * widest + 2 * config.vocabSize) + garbage
  return { weights: weightBytes, cache, scratch, total: weightBytes + cache + scratch }
}

/**
 * The context to run a model with: the one wanted, or the longest that the model was made for and `available` bytes allow.
 * Throws RequestError where the wanted one is longer than the model's, DeviceError with the numbers where it does not fit.
 */
export function chooseContext(
  config: ModelConfig,
  available: number,
  options: MemoryOptions,
  wanted?: number,
): { contextLength: number; plan: MemoryPlan } {
  const most = config.maxPositionEmbeddings
  if (wanted !== undefined && !(Number.isInteger(wanted) && wanted > 0 && wanted <= most)) {
    throw new RequestError(`a context of ${wanted} tokens was asked for; this model has 1 to ${most}`, {
      param: 'contextLength',
    })
  }
  const contextLength = wanted ?? Math.max(contextThatFits(config, available, options), Math.min(shortestContext, most))
  const plan = planMemory(config, contextLength, options)
  if (plan.total <= available) return { contextLength, plan }
  const { weights, cache, scratch, total } = plan
  throw new DeviceError(
    `the model needs ${showBytes(total)} (weights ${showBytes(weights)}, cache for ${contextLength} tokens ${showBytes(cache)}, ` +
      `scratch ${showBytes(scratch)}), and ${showBytes(available)} are free: close other programs` +
      `${wanted === undefined ? '' : ', ask for a shorter context'} or take a machine with more memory`,
  )
}

/** The longest context whose plan stays within `available` bytes, at most the model's own; 0 where nothing fits. */
function contextThatFits(config: ModelConfig, available: number, options: MemoryOptions): number {
  let fits = 0
  let tooLong = config.maxPositionEmbeddings + 1
  while (tooLong - fits > 1) {
    const middle = Math.floor((fits + tooLong) / 2)
    if (planMemory(config, middle, options).total <= available) fits = middle
    else tooLong = middle
  }
  return fits
}

export function showBytes(bytes: number): string {
  return bytes >= 1024 * mib ? `${(bytes / 1024 / mib).toFixed(1)} GiB` : `${Math.ceil(bytes / mib)} MiB`
}
