import { DeviceError } from '../base/errors.ts'

/** The id of the largest logit, ties to the lowest id. Throws DeviceError where a logit is NaN or Infinity. */
export function likeliest(logits: Float32Array): number {
  // Math.max is NaN if anything is; four at a time do not wait for each other.
  let [a, b, c, d] = [-Infinity, -Infinity, -Infinity, -Infinity]
  let id = 0
  for (; id + 3 < logits.length; id += 4) {
    a = Math.max(a, logits[id])
    b = Math.max(b, logits[id + 1])
    c = Math.max(c, logits[id + 2])
    d = Math.max(d, logits[id + 3])
  }
  for (; id < logits.length; id++) a = Math.max(a, logits[id])
  const most = Math.max(a, b, c, d)
  if (most < Infinity) return logits.indexOf(most)
  const wrong = logits.findIndex(logit => !(logit < Infinity))
  return refuseLogits(`the logit of token ${wrong} is ${logits[wrong]}`)
}

export function refuseLogits(fact: string): never {
  throw new DeviceError(
    `${fact}: the device computed nonsense or the weights are damaged; verify the model's files, or try another device`,
  )
}

/** The ids of the `count` largest logits by falling logit, ties by rising id. */
export function likeliestFew(logits: Float32Array, count: number): number[] {
  if (count >= logits.length / 8) return falling(logits, logits.keys()).slice(0, count)
  // A heap of the best so far, the worst of them at its root: most logits cost one comparison.
  const heap: number[] = []
  for (let id = 0; id < count; id++) heap.push(id)
  for (let root = count >> 1; root-- > 0; ) sink(logits, heap, root)
  for (let id = count; id < logits.length; id++) {
    if (count === 0 || !(logits[id] > logits[heap[0]])) continue
    heap[0] = id
    sink(logits, heap, 0)
  }
  return falling(logits, heap)
}

/** The ids of all logits of at least `least`, in the same order. */
export function likeliestFrom(logits: Float32Array, least: number): number[] {
  const ids: number[] = []
  for (let id = 0; id < logits.length; id++) if (logits[id] >= least) ids.push(id)
  return falling(logits, ids)
}

/** Ids by falling logit, ties by rising id. */
function falling(logits: Float32Array, ids: Iterable<number>): number[] {
  const float = new Float32Array(1)
  const bits = new Uint32Array(float.buffer)
  // Numbers sort ten times faster than by a comparison of ours: the logit's bits, turned so that they fall, then the id.
  const key = (id: number) => {
    float[0] = logits[id] + 0 // -0 and 0 are equal
    const isNegative = bits[0] >>> 31 === 1
    const rank = isNegative ? bits[0] : 0x7fffffff - bits[0]
    return rank * logits.length + id // exact up to 2^21 tokens
  }
  return Array.from(Float64Array.from(ids, key).sort(), value => value % logits.length)
}

/** Moves the root down until nothing below it is worse: smaller, or as large with a higher id. */
function sink(logits: Float32Array, heap: number[], root: number): void {
  const isWorse = (a: number, b: number) => logits[a] < logits[b] || (logits[a] === logits[b] && a > b)
  const id = heap[root]
  for (let child = 2 * root + 1; child < heap.length; child = 2 * root + 1) {
    if (child + 1 < heap.length && isWorse(heap[child + 1], heap[child])) child++
    if (!isWorse(heap[child], id)) break
    heap[root] = heap[child]
    root = child
  }
  heap[root] = id
}
