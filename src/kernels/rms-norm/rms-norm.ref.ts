/** x [T, width] · weight [width] / √(mean(x²) + epsilon), the mean over each row. */
export function rmsNorm(x: Float32Array, weight: Float32Array, epsilon: number): Float32Array {
  const width = weight.length
  const out = new Float32Array(x.length)
  for (let at = 0; at < x.length; at += width) {
    let squares = 0
    for (let i = 0; i < width; i++) squares += x[at + i] * x[at + i]
    const factor = 1 / Math.sqrt(squares / width + epsilon)
    for (let i = 0; i < width; i++) out[at + i] = x[at + i] * factor * weight[i]
  }
  return out
}
