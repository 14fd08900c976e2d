import { encodeBfloat16 } from '../src/base/bfloat16.ts'
import { seededRandom } from '../src/base/random.ts'
import { encodeMxfp4 } from '../src/checkpoint/mxfp4.ts'
import type { ModelConfig } from '../src/model/config.ts'
import type { ExpectedTensor } from '../src/model/tensors.ts'

/** What is drawn: an expert matrix's blocks and scales are one draw. */
export type RandomPart =
  | Exclude<ExpectedTensor['part'], `${'gateUp' | 'down'}${'Blocks' | 'Scales'}`>
  | 'gateUp'
  | 'down'

/** Entries of a pool: two bfloat16 numbers each, or the 32 of an MXFP4 group. */
const poolPairs = 2 ** 16
const poolGroups = 2 ** 13

/** One channel in so many is an outlier … */
const channelsPerOutlier = 256
/** … and all outliers together add this much to the mean square of a normed activation, which is 1 without them. */
const outlierEnergy = 0.5

/**
 * Random weights that behave like a trained model's where it matters to speed and rounding: tokens choose different
 * experts in every layer, SwiGLU is hardly ever clamped, logits spread by 2 or 3, a few channels are an order of
 * magnitude larger than the others. `standardDeviation` says how.
 *
 * Each row is a function of (seed, part, layer, row) alone, so that rows can be written in any order and layout, and a
 * file can be continued where it was cut off. Its numbers come from a pool of normal ones, each with a sign of its own:
 * no two rows have anything to do with each other, at the speed of copying.
 */
export class RandomWeights {
  readonly #config: ModelConfig
  readonly #seed: number
  readonly #normals: Float32Array
  readonly #pools = new Map<string, Uint32Array | GroupPool>()

  constructor(config: ModelConfig, seed: number) {
    this.#config = config
    this.#seed = seed
    const random = seededRandom(seed)
    this.#normals = Float32Array.from({ length: poolGroups * 32 }, () => normal(random))
  }

  /** The rows of a matrix of one layer (−1 outside the layers); a vector is one row. */
  rows(part: RandomPart, layer: number): RandomRows {
    const stream = `${this.#seed} ${layer} ${part}`
    if (part === 'norm' || part === 'attentionNorm' || part === 'mlpNorm') return new NormRow(this.#gains(stream))
    const std = standardDeviation(part, this.#config)
    const pool = part === 'gateUp' || part === 'down' ? this.#groupPool(std) : this.#pairPool(std)
    return new PoolRows(pool, hash(stream))
  }

  /** Around 1, but for the outliers, which are the same channels throughout the model as they are in trained ones. */
  #gains(stream: string): Float32Array {
    const { hiddenSize } = this.#config
    const random = seededRandom(hash(stream))
    const gains = Float32Array.from({ length: hiddenSize }, () => 1 + 0.1 * normal(random))
    const place = seededRandom(hash(`${this.#seed} outliers`))
    const count = Math.max(1, Math.floor(hiddenSize / channelsPerOutlier))
    for (let i = 0; i < count; i++) {
      const channel = Math.floor(((i + place()) / count) * hiddenSize)
      gains[channel] = Math.sqrt((outlierEnergy * hiddenSize) / count) * (1 + 0.1 * normal(random))
    }
    return gains
  }

  #pairPool(std: number): Uint32Array {
    const key = `pairs ${std}`
    const known = this.#pools.get(key)
    if (known) return known as Uint32Array
    const words = encodeBfloat16(this.#normals.subarray(0, 2 * poolPairs).map(value => std * value))
    const pool = new Uint32Array(words.buffer)
    this.#pools.set(key, pool)
    return pool
  }

  #groupPool(std: number): GroupPool {
    const key = `groups ${std}`
    const known = this.#pools.get(key)
    if (known) return known as GroupPool
    const { blocks, scales } = encodeMxfp4(this.#normals.map(value => std * value))
    const pool = { words: new Uint32Array(blocks.buffer), scales }
    this.#pools.set(key, pool)
    return pool
  }
}

/**
 * Activations behind a norm have a mean square of 1 + outlierEnergy, so a matrix of the deviation s/√fanIn gives numbers
 * of the deviation s·1.22.
 */
function standardDeviation(part: RandomPart, config: ModelConfig): number {
  const { hiddenSize, intermediateSize, numAttentionHeads, headDim } = config
  switch (part) {
    case 'embedding': // The residual stream begins as the token and stays mostly that: what layers add is smaller.
      return 1
    case 'qkv': // With YaRN's factor attention logits deviate by 2.7: each token attends to a few others.
    case 'router':
      return 1 / Math.sqrt(hiddenSize)
    case 'out':
      return 0.5 / Math.sqrt(numAttentionHeads * headDim)
    case 'gateUp': // Inputs of SwiGLU deviate by 2: its bend is used, its limit of 7 is not.
      return 1.6 / Math.sqrt(hiddenSize)
    case 'down': // What comes out of SwiGLU has a root mean square of 3; four experts together add 0.5.
      return 0.25 / Math.sqrt(intermediateSize)
    case 'unembedding':
      return 2 / Math.sqrt(hiddenSize)
    case 'sinks':
      return 1
    case 'qkvBias': // All tokens share a bias; with larger ones they would come to share their experts.
    case 'outBias':
    case 'routerBias':
    case 'gateUpBias':
    case 'downBias':
      return 0.02
    case 'norm':
    case 'attentionNorm':
    case 'mlpNorm':
      throw new RangeError(`${part} is not drawn around 0`)
    default:
      return part satisfies never
  }
}

/** Rows by their index. What a call gives holds until the next. */
export interface RandomRows {
  /** bfloat16 bits. */
  words(row: number, width: number): Uint16Array
  /** An expert matrix's, as the safetensors have them. */
  groups(row: number, width: number): { blocks: Uint8Array; scales: Uint8Array }
}

class NormRow implements RandomRows {
  readonly #words: Uint16Array
  constructor(gains: Float32Array) {
    this.#words = encodeBfloat16(gains)
  }
  words(): Uint16Array {
    return this.#words
  }
  groups(): never {
    throw new RangeError('a norm is not MXFP4')
  }
}

interface GroupPool {
  /** Four for each group. */
  readonly words: Uint32Array
  readonly scales: Uint8Array
}

class PoolRows implements RandomRows {
  readonly #pool: Uint32Array | GroupPool
  readonly #stream: number
  #words = new Uint32Array(0)
  #scales = new Uint8Array(0)

  constructor(pool: Uint32Array | GroupPool, stream: number) {
    this.#pool = pool
    this.#stream = stream
  }

  words(row: number, width: number): Uint16Array {
    const pool = this.#pool as Uint32Array
    const pairs = Math.ceil(width / 2)
    if (this.#words.length !== pairs) this.#words = new Uint32Array(pairs)
    const out = this.#words
    const state = rowState(this.#stream, row)
    for (let i = 0; i < pairs; i++) {
      const bits = nextBits(state)
      out[i] = pool[bits >>> 16] ^ (bits & 0x8000) ^ ((bits & 0x4000) << 17)
    }
    return new Uint16Array(out.buffer, 0, width)
  }

  groups(row: number, width: number): { blocks: Uint8Array; scales: Uint8Array } {
    const pool = this.#pool as GroupPool
    const count = width / 32
    if (this.#scales.length !== count) {
      this.#scales = new Uint8Array(count)
      this.#words = new Uint32Array(4 * count)
    }
    const [scales, out] = [this.#scales, this.#words]
    const state = rowState(this.#stream, row)
    for (let i = 0; i < count; i++) {
      const group = nextBits(state) >>> 19 // 13 bits
      const signs = nextBits(state) // one for each of the 32
      scales[i] = pool.scales[group]
      for (let word = 0; word < 4; word++) {
        out[4 * i + word] = pool.words[4 * group + word] ^ ((signs << word) & 0x88888888)
      }
    }
    return { blocks: new Uint8Array(out.buffer), scales }
  }
}

/** Two words, not both 0, from which `nextBits` goes on. */
function rowState(stream: number, row: number): Int32Array {
  return Int32Array.of(mixed(stream ^ mixed(row)), mixed(stream + mixed(row + 1)) | 1)
}

/** 32 random bits (xoroshiro64**, Blackman and Vigna). */
function nextBits(state: Int32Array): number {
  const [s0, s1] = [state[0], state[1] ^ state[0]]
  state[0] = rotated(s0, 26) ^ s1 ^ (s1 << 9)
  state[1] = rotated(s1, 13)
  return Math.imul(rotated(Math.imul(s0, 0x9e3779bb), 5), 5)
}

const rotated = (word: number, by: number): number => (word << by) | (word >>> (32 - by))

/** Neighbouring numbers become unlike ones (the end of MurmurHash3). */
function mixed(word: number): number {
  word = Math.imul(word ^ (word >>> 16), 0x85ebca6b)
  word = Math.imul(word ^ (word >>> 13), 0xc2b2ae35)
  return word ^ (word >>> 16)
}

/** Box–Muller. */
function normal(random: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
}

/** FNV-1a. */
function hash(text: string): number {
  let state = 0x811c9dc5
  for (let i = 0; i < text.length; i++) state = Math.imul(state ^ text.charCodeAt(i), 0x01000193)
  return state >>> 0
}
