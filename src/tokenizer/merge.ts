import type { Pairs } from './pairs.ts'

const never = 0x7fffffff // the rank of two tokens that do not merge

/** Longest piece, in bytes, for which `mergeShort` is the faster one. */
const maxShort = 100
/** Longest piece whose working memory is kept for the next one. */
const maxKept = 1 << 16

/** Byte pair encoding of one piece. `ids` holds the ids of its bytes and is overwritten; tokens are appended to `out`. */
export type Merge = (ids: Int32Array, length: number, out: number[]) => void

/** Byte pair encoding that chooses the algorithm by the length of the piece; `size` is the number of tokens. */
export function createMerge(pairs: Pairs, size: number): Merge {
  const mergeLong = createMergeLong(pairs, size)
  return (ids, length, out) => (length <= maxShort ? mergeShort(pairs, ids, length, out) : mergeLong(ids, length, out))
}

/**
 * Again and again the pair with the lowest id merges, the leftmost one among equals. Looks at every pair for every
 * merge: quadratic, yet faster than any clever structure while the piece is short.
 */
export function mergeShort(pairs: Pairs, ids: Int32Array, length: number, out: number[]): void {
  const ranks = length <= scratch.length ? scratch : new Int32Array(length)
  let count = length
  for (let at = 0; at + 1 < count; at++) ranks[at] = rankOf(pairs, ids[at], ids[at + 1])
  while (count > 1) {
    let best = never
    let bestAt = 0
    for (let at = 0; at + 1 < count; at++) {
      if (ranks[at] < best) {
        best = ranks[at]
        bestAt = at
      }
    }
    if (best === never) break
    count--
    ids[bestAt] = best
    for (let at = bestAt + 1; at < count; at++) {
      ids[at] = ids[at + 1]
      ranks[at] = ranks[at + 1]
    }
    if (bestAt > 0) ranks[bestAt - 1] = rankOf(pairs, ids[bestAt - 1], best)
    if (bestAt + 1 < count) ranks[bestAt] = rankOf(pairs, best, ids[bestAt + 1])
  }
  for (let at = 0; at < count; at++) out.push(ids[at])
}

const scratch = new Int32Array(256)

function rankOf(pairs: Pairs, left: number, right: number): number {
  const merged = pairs.get(left, right)
  return merged < 0 ? never : merged
}

/** What `createMergeLong` needs for a piece. A part is named by the position of its first byte. */
interface Workspace {
  /** The part before and after; −1 and the length of the piece at the ends. */
  previous: Int32Array
  next: Int32Array
  /** What a part and the next one merge into, `never` if nothing or if the part is gone. */
  ranks: Int32Array
  /** A pool of list nodes: the part, and the next node. Two merges of a pair change its ranks at most twice. */
  nodePart: Int32Array
  nodeLink: Int32Array
  /** The parts of one rank, in order. */
  batch: Int32Array
}

/**
 * The same result in time that grows like the length. A merge only makes pairs of higher rank than its own (a token comes
 * after both its halves), so ranks are finished in ascending order and all pairs of one rank at once. Pairs wait in
 * one list for each rank, and only the ranks stand in a heap: a piece has few different ones.
 */
export function createMergeLong(pairs: Pairs, size: number): Merge {
  const heads = new Int32Array(size).fill(-1) // the list of each rank; empty again after every piece
  let kept = createWorkspace(1024)

  return (ids, length, out) => {
    if (length > kept.ranks.length && length <= maxKept) kept = createWorkspace(2 * length)
    const work = length <= kept.ranks.length ? kept : createWorkspace(length)
    const { previous, next, ranks, nodePart, nodeLink, batch } = work
    const heap = createHeap()
    let numNodes = 0

    function setRank(part: number): void {
      const rank = next[part] < length ? rankOf(pairs, ids[part], ids[next[part]]) : never
      ranks[part] = rank
      if (rank === never) return
      if (heads[rank] < 0) heap.push(rank)
      nodePart[numNodes] = part
      nodeLink[numNodes] = heads[rank]
      heads[rank] = numNodes++
    }

    function mergeWithNext(part: number): void {
      const gone = next[part]
      ids[part] = ranks[part]
      next[part] = next[gone]
      ranks[gone] = never
      if (next[part] < length) previous[next[part]] = part
      if (previous[part] >= 0) setRank(previous[part])
      setRank(part)
    }

    for (let part = 0; part < length; part++) {
      previous[part] = part - 1
      next[part] = part + 1
    }
    for (let part = 0; part < length; part++) setRank(part)
    for (let rank = heap.pop(); rank >= 0; rank = heap.pop()) {
      let start = length
      let ascending = true
      for (let node = heads[rank]; node >= 0; node = nodeLink[node]) {
        batch[--start] = nodePart[node]
        ascending &&= start + 1 === length || batch[start] < batch[start + 1]
      }
      heads[rank] = -1
      if (!ascending) batch.subarray(start, length).sort() // the left one of two that overlap has to come first
      for (let at = start; at < length; at++) if (ranks[batch[at]] === rank) mergeWithNext(batch[at])
    }
    for (let part = 0; part < length; part = next[part]) out.push(ids[part])
  }
}

function createWorkspace(length: number): Workspace {
  const array = (n: number) => new Int32Array(n)
  return {
    previous: array(length),
    next: array(length),
    ranks: array(length),
    nodePart: array(3 * length),
    nodeLink: array(3 * length),
    batch: array(length),
  }
}

/** A binary heap of whole numbers; `pop` gives the smallest, −1 when it is empty. */
function createHeap(): { push(value: number): void; pop(): number } {
  const values: number[] = []
  return {
    push(value) {
      let at = values.length
      while (at > 0) {
        const parent = (at - 1) >> 1
        if (values[parent] <= value) break
        values[at] = values[parent]
        at = parent
      }
      values[at] = value
    },
    pop() {
      if (values.length === 0) return -1
      const smallest = values[0]
      const value = values.pop()!
      const length = values.length
      if (length === 0) return smallest
      let at = 0
      for (let child = 1; child < length; child = 2 * at + 1) {
        if (child + 1 < length && values[child + 1] < values[child]) child++
        if (values[child] >= value) break
        values[at] = values[child]
        at = child
      }
      values[at] = value
      return smallest
    },
  }
}
