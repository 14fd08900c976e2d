import type { Pairs } from './pairs.ts'

const never = 0x7fffffff

/**
 * Byte pair encoding of a short piece: again and again the pair with the lowest id merges, the leftmost one among equals.
 * Looks at every pair for every merge, which beats any clever structure up to about a hundred bytes.
 * `ids` holds the ids of the bytes and is overwritten; the tokens are appended to `out`.
 */
export function mergeShort(pairs: Pairs, ids: Int32Array, length: number, out: number[]): void {
  const merged = length <= scratch.length ? scratch : new Int32Array(length)
  let count = length
  for (let at = 0; at + 1 < count; at++) merged[at] = rankOf(pairs, ids[at], ids[at + 1])
  while (count > 1) {
    let best = never
    let bestAt = 0
    for (let at = 0; at + 1 < count; at++) {
      if (merged[at] < best) {
        best = merged[at]
        bestAt = at
      }
    }
    if (best === never) break
    count--
    ids[bestAt] = best
    for (let at = bestAt + 1; at < count; at++) {
      ids[at] = ids[at + 1]
      merged[at] = merged[at + 1]
    }
    if (bestAt > 0) merged[bestAt - 1] = rankOf(pairs, ids[bestAt - 1], best)
    if (bestAt + 1 < count) merged[bestAt] = rankOf(pairs, best, ids[bestAt + 1])
  }
  for (let at = 0; at < count; at++) out.push(ids[at])
}

const scratch = new Int32Array(256)

function rankOf(pairs: Pairs, left: number, right: number): number {
  const merged = pairs.get(left, right)
  return merged < 0 ? never : merged
}
