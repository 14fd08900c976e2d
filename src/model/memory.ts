import { DeviceError, RequestError } from '../base/errors.ts'
import type { Device, WeightBytes } from '../kernels/ops.ts'
import type { ModelConfig } from './config.ts'
import { maxSnapshots, snapshotTokens } from './kv-cache.ts'

/** What decides how much memory a model needs, besides its configuration and its context. */
export interface MemoryOptions {
  device: Pick<Device, 'cacheBytes' | 'snapshotBytes' | 'passBytes'>
  /** What the weights take on the device. */
  weights: WeightBytes
  /** Tokens that a forward pass takes at most. */
  maxChunk: number
  /** Sessions that stay, with their snapshots; one more without a name has none. All share the context's tokens. */
  maxSessions: number
}

/** What a model will need, in bytes, known before any weight is read. */
export interface MemoryPlan {
  weights: number
  /** Keys and values: as many tokens as the context has in the full layers, and every session's windows and snapshots. */
  cache: number
  /** What a forward pass computes in. */
  scratch: number
  /** What lies about at most until the garbage collector comes. */
  garbage: number
  /** All of these: memory of the process's own. */
  total: number
  /** Weights that are used where their files are mapped: the system may drop and read them again. */
  mapped: number
}

const mib = 2 ** 20
/** Logits that nobody needs any more, measured over 500 tokens of nano, and the heap of JavaScript. */
const garbage = 32 * mib
/** A context shorter than this, or than the model's own, is of no use unless somebody asks for it. */
const shortestContext = 1024 // tokens; the instructions of a conversation alone take a hundred
/** What nobody asked for is no reason to read experts from the disk again and again, beyond this. */
const roomyContext = 8192 // tokens

export function planMemory(config: ModelConfig, contextLength: number, options: MemoryOptions): MemoryPlan {
  const { device, weights, maxChunk, maxSessions } = options
  const { numAttentionHeads, numKeyValueHeads, headDim, slidingWindow } = config
  const full = { numAttentionHeads, numKeyValueHeads, headDim, window: Infinity }
  const windowed = { ...full, window: slidingWindow }
  const numFull = Math.floor(config.numHiddenLayers / 2)
  const numWindowed = config.numHiddenLayers - numFull

  // A session takes a chunk more before others make room for it, and each keeps what its last tokens have begun.
  const mostTokens = contextLength + (maxSessions > 0 ? maxChunk : 0)
  const fullLayer = device.cacheBytes(full, mostTokens) + maxSessions * device.cacheBytes(full, 1)
  const ring = device.cacheBytes(windowed, Math.min(slidingWindow - 1 + maxChunk, contextLength))
  const snapshot = device.snapshotBytes(windowed, snapshotTokens(slidingWindow))
  // A new snapshot is there before the one that it takes the place of leaves.
  const numSnapshots = maxSessions > 0 ? maxSessions * maxSnapshots + 1 : 0
  const windowedLayer = (maxSessions + 1) * ring + numSnapshots * snapshot

  const cache = numFull * fullLayer + numWindowed * windowedLayer
  const scratch = device.passBytes(config, maxChunk)
  const total = weights.own + cache + scratch + garbage
  return { weights: weights.own, cache, scratch, garbage, total, mapped: weights.mapped }
}

/**
 * The context to run a model with: the one wanted, or the longest that the model was made for and `available` bytes allow
 * beside its weights, those that are mapped too where that leaves a roomy one.
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
  const contextLength = wanted ?? longestContext(config, available, options)
  const plan = planMemory(config, contextLength, options)
  if (plan.total <= available) return { contextLength, plan }
  const { weights, cache, total } = plan
  const scratch = plan.scratch + plan.garbage
  throw new DeviceError(
    `the model needs ${showBytes(total)} (weights ${showBytes(weights)}, cache for ${contextLength} tokens ${showBytes(cache)}, ` +
      `scratch ${showBytes(scratch)}), and ${showBytes(available)} are free: close other programs` +
      `${wanted === undefined ? '' : ', ask for a shorter context'} or take a machine with more memory`,
  )
}

function longestContext(config: ModelConfig, available: number, options: MemoryOptions): number {
  const besideMapped = contextThatFits(config, available - options.weights.mapped, options)
  const fits = Math.min(contextThatFits(config, available, options), roomyContext)
  return Math.max(besideMapped, fits, Math.min(shortestContext, config.maxPositionEmbeddings))
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

/** `1.6 GiB of memory and 12.8 GiB mapped` */
export function showMemory(memory: { private: number; mapped: number }): string {
  return `${showBytes(memory.private)} of memory${memory.mapped > 0 ? ` and ${showBytes(memory.mapped)} mapped` : ''}`
}

export function showBytes(bytes: number): string {
  return bytes >= 1024 * mib ? `${(bytes / 1024 / mib).toFixed(1)} GiB` : `${Math.ceil(bytes / mib)} MiB`
}
