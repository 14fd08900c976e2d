/** The k largest of each row of logits [T, numExperts], ties to the lower index, and their softmax. */
export function topK(
  logits: Float32Array,
  numExperts: number,
  k: number,
): { experts: Int32Array; weights: Float32Array } {
  const numTokens = logits.length / numExperts
  const experts = new Int32Array(numTokens * k)
  const weights = new Float32Array(numTokens * k)
  for (let t = 0; t < numTokens; t++) {
    const row = logits.subarray(t * numExperts, (t + 1) * numExperts)
    const chosen = [...row.keys()].sort((a, b) => row[b] - row[a] || a - b).slice(0, k)
    const exponentials = chosen.map(e => Math.exp(row[e] - row[chosen[0]]))
    const total = exponentials.reduce((a, b) => a + b)
    experts.set(chosen, t * k)
    weights.set(
      exponentials.map(e => e / total),
      t * k,
    )
  }
  return { experts, weights }
}
