const blockSize = 512

/** Σ exp((logit − largest) / temperature) over all tokens; `largest` is the largest logit. */
export function sumOfWeights(logits: Float32Array, largest: number, temperature: number): number {
  return runningSums(logits, largest, temperature).at(-1)!
}

/**
 * The token at `draw`, in [0, 1), of softmax(logits / temperature) laid end to end; never one without weight. Each
 * exponential is computed once, those of one block twice, and none is kept.
 */
export function drawFromAll(logits: Float32Array, largest: number, temperature: number, draw: number): number {
  const sums = runningSums(logits, largest, temperature)
  const target = draw * sums[sums.length - 1] // below the sum: a draw is at most 1 - 2^-53
  const block = sums.findIndex(sum => sum > target)
  let reached = block === 0 ? 0 : sums[block - 1]
  for (let id = block * blockSize; ; id++) {
    reached += Math.exp((logits[id] - largest) / temperature)
    if (reached > target) return id
  }
}

/** The sum of weights up to the end of each block. */
function runningSums(logits: Float32Array, largest: number, temperature: number): Float64Array {
  const sums = new Float64Array(Math.ceil(logits.length / blockSize))
  let sum = 0
  for (let block = 0, id = 0; block < sums.length; block++) {
    const end = Math.min(id + blockSize, logits.length)
    for (; id < end; id++) sum += Math.exp((logits[id] - largest) / temperature)
    sums[block] = sum
  }
  return sums
}
