import { dot, RowReader, type StoredRows } from '../matrix.ref.ts'

/** x [T, inSize] · weightᵀ [outSize, inSize] + bias [outSize] → [T, outSize]. Each weight row is read once for all T. */
export function linear(
  x: Float32Array,
  weight: StoredRows,
  bias: Float32Array | undefined,
  inSize: number,
  outSize: number,
): Float32Array {
  const numTokens = x.length / inSize
  const out = new Float32Array(numTokens * outSize)
  const reader = new RowReader(inSize)
  for (let o = 0; o < outSize; o++) {
    const row = reader.read(weight, o)
    const b = bias ? bias[o] : 0
    for (let t = 0; t < numTokens; t++) out[t * outSize + o] = dot(x, t * inSize, row, 0, inSize) + b
  }
  return out
}
