import { dot } from '../matrix.ref.ts'
import type { AttentionShape, Piece } from '../ops.ts'
import type { ReferenceCache } from './cache.ref.ts'

/**
 * Causal attention with sinks and windows over qkv [T, q + k + v] (after rope) → [T, numAttentionHeads · headDim].
 * Each piece's keys and values go into its cache first. Query head h reads key/value head ⌊h / (heads per key head)⌋.
 */
export function attention(
  qkv: Float32Array,
  sinks: Float32Array,
  pieces: readonly Piece[],
  caches: readonly ReferenceCache[],
  shape: AttentionShape,
): Float32Array {
  const { numAttentionHeads, numKeyValueHeads, headDim } = shape
  const querySize = numAttentionHeads * headDim
  const width = querySize + 2 * numKeyValueHeads * headDim
  const out = new Float32Array((qkv.length / width) * querySize)
  for (const [i, piece] of pieces.entries()) {
    const cache = caches[i]
    for (let n = 0; n < piece.count; n++) {
      const keyAt = (piece.row + n) * width + querySize
      cache.write(piece.start + n, qkv, keyAt, keyAt + cache.width)
    }
    for (let n = 0; n < piece.count; n++) {
      const row = piece.row + n
      const query = qkv.subarray(row * width, row * width + querySize)
      attend(query, sinks, cache, piece.start + n, shape, out.subarray(row * querySize, (row + 1) * querySize))
    }
  }
  return out
}

/** One token's queries [querySize] against what the cache holds up to `position`. */
function attend(
  query: Float32Array,
  sinks: Float32Array,
  cache: ReferenceCache,
  position: number,
  shape: AttentionShape,
  out: Float32Array,
): void {
  const { numAttentionHeads, numKeyValueHeads, headDim, window } = shape
  const headsPerKey = numAttentionHeads / numKeyValueHeads
  const scale = 1 / Math.sqrt(headDim)
  const begin = Math.max(cache.first, position - window + 1)
  const weights = new Float64Array(position + 1 - begin)
  const sums = new Float64Array(headDim)
  for (let head = 0; head < numAttentionHeads; head++) {
    const keyHead = Math.floor(head / headsPerKey) * headDim
    let max = sinks[head]
    for (let p = begin; p <= position; p++) {
      const score = dot(query, head * headDim, cache.keys, cache.offset(p) + keyHead, headDim) * scale
      weights[p - begin] = score
      if (score > max) max = score
    }
    let total = Math.exp(sinks[head] - max)
    sums.fill(0)
    for (let p = begin; p <= position; p++) {
      const weight = Math.exp(weights[p - begin] - max)
      total += weight
      const at = cache.offset(p) + keyHead
      for (let i = 0; i < headDim; i++) sums[i] += weight * cache.values[at + i]
    }
    for (let i = 0; i < headDim; i++) out[head * headDim + i] = sums[i] / total
  }
}
