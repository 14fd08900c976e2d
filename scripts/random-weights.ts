import { encodeBfloat16 } from '../src/base/bfloat16.ts'
import { seededRandom } from '../src/base/random.ts'
import { encodeMxfp4 } from '../src/checkpoint/mxfp4.ts'
import { layerOf } from '../src/checkpoint/names.ts'
import type { ModelConfig } from '../src/model/config.ts'
import type { ExpectedTensor } from '../src/model/tensors.ts'

/** Normal numbers drawn once; every tensor is pieces of them, each from another place. */
const poolValues = 2 ** 18
/** Values that are copied in one piece: far fewer than the pool has, so that few pieces of a tensor overlap. */
const pieceValues = 2 ** 14

/** The bytes of the pool's values, in units that are not cut: single numbers, or MXFP4 groups. */
interface Pool {
  readonly bytes: Uint8Array
  readonly unitBytes: number
  readonly unitValues: number
}

/**
 * Random weights at the speed of copying: normal numbers with the standard deviation 1/√fanIn (with more, experts saturate
 * and all tokens choose the same ones), norms around 1, biases of 0.02, sinks of 1.
 */
export class RandomWeights {
  readonly #seed: number
  readonly #config: ModelConfig
  readonly #normals: Float32Array
  readonly #pools = new Map<string, Pool>()
  /** How many bytes of a part have been given: q, k and v of Hugging Face's follow each other. */
  readonly #given = new Map<string, number>()

  constructor(config: ModelConfig, seed: number) {
    this.#config = config
    this.#seed = seed
    const random = seededRandom(seed)
    this.#normals = Float32Array.from({ length: poolValues }, () => normal(random))
  }

  /** The bytes of a tensor, piece by piece. Tensors of one part must be asked for in their order, and once. */
  *bytesOf({ name, part, shape, dataType }: ExpectedTensor): Generator<Uint8Array> {
    const pool = this.#pools.get(part) ?? this.#newPool(part)
    this.#pools.set(part, pool)
    const layer = layerOf(name) ?? -1
    const key = `${layer} ${part}`
    const begin = this.#given.get(key) ?? 0
    const end = begin + shape.reduce((a, b) => a * b, dataType === 'BF16' ? 2 : 1)
    // Blocks and scales of a matrix take the same places.
    const stream = `${this.#seed} ${layer} ${part.replace(/Blocks|Scales/, '')}`
    yield* piecesOf(pool, stream, begin / pool.unitBytes, end / pool.unitBytes)
    this.#given.set(key, end)
  }

  #newPool(part: ExpectedTensor['part']): Pool {
    const { hiddenSize, intermediateSize, numAttentionHeads, headDim } = this.#config
    switch (part) {
      case 'gateUpBlocks':
      case 'gateUpScales':
      case 'downBlocks':
      case 'downScales': {
        const fanIn = part.startsWith('gateUp') ? hiddenSize : intermediateSize
        const { blocks, scales } = encodeMxfp4(this.#normals.map(value => value / Math.sqrt(fanIn)))
        const isBlocks = part.endsWith('Blocks')
        return { bytes: isBlocks ? blocks : scales, unitBytes: isBlocks ? 16 : 1, unitValues: 32 }
      }
      case 'norm':
      case 'attentionNorm':
      case 'mlpNorm':
        return this.#numbers(1, 0.1)
      case 'qkvBias':
      case 'outBias':
      case 'routerBias':
      case 'gateUpBias':
      case 'downBias':
        return this.#numbers(0, 0.02)
      case 'sinks':
        return this.#numbers(0, 1)
      case 'out':
        return this.#numbers(0, 1 / Math.sqrt(numAttentionHeads * headDim))
      case 'embedding':
      case 'unembedding':
      case 'qkv':
      case 'router':
        return this.#numbers(0, 1 / Math.sqrt(hiddenSize))
      default:
        return part satisfies never
    }
  }

  #numbers(mean: number, std: number): Pool {
    const words = encodeBfloat16(this.#normals.map(value => mean + std * value))
    return { bytes: new Uint8Array(words.buffer), unitBytes: 2, unitValues: 1 }
  }
}

/** Units `first` to `end` of an endless stream, whose every piece begins at a place of the pool that its name gives. */
function* piecesOf(pool: Pool, stream: string, first: number, end: number): Generator<Uint8Array> {
  const { bytes, unitBytes, unitValues } = pool
  const pieceUnits = pieceValues / unitValues
  const places = bytes.length / unitBytes - pieceUnits + 1
  for (let at = first; at < end; ) {
    const piece = Math.floor(at / pieceUnits)
    const pieceEnd = Math.min(end, (piece + 1) * pieceUnits)
    const place = Math.floor(seededRandom(hash(`${stream} ${piece}`))() * places) - piece * pieceUnits
    yield bytes.subarray((place + at) * unitBytes, (place + pieceEnd) * unitBytes)
    at = pieceEnd
  }
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
