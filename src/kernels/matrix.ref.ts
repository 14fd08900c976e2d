import { decodeMxfp4Row } from '../base/mxfp4.ts'

/** Rows of numbers as they are stored: float32, or the upper halves of float32 (bfloat16). */
export type StoredRows = Float32Array | Uint16Array

/** MXFP4 rows, expert after expert: 16 bytes and one scale for each group of 32 values. */
export interface Mxfp4Rows {
  readonly blocks: Uint8Array
  readonly scales: Uint8Array
}

/** Reads one row of a matrix at a time, as float32: the only place that knows how numbers are stored. */
export class RowReader {
  readonly row: Float32Array
  readonly #bits: Uint32Array

  constructor(width: number) {
    this.row = new Float32Array(width)
    this.#bits = new Uint32Array(this.row.buffer)
  }

  /** The row with this index; it holds until the next read. */
  read(matrix: StoredRows | Mxfp4Rows, index: number): Float32Array {
    const width = this.row.length
    if (matrix instanceof Float32Array) return matrix.subarray(index * width, (index + 1) * width)
    if (matrix instanceof Uint16Array) {
      const bits = this.#bits
      for (let i = 0, at = index * width; i < width; i++, at++) bits[i] = matrix[at] << 16
    } else {
      decodeMxfp4Row(matrix.blocks, matrix.scales, (index * width) / 32, this.row)
    }
    return this.row
  }
}

/** Σ a[aAt + i] · b[bAt + i] over `length` values, summed in float64 in an order that depends on `length` alone. */
export function dot(a: Float32Array, aAt: number, b: Float32Array, bAt: number, length: number): number {
  let s0 = 0
  let s1 = 0
  let s2 = 0
  let s3 = 0
  let i = 0
  for (; i + 3 < length; i += 4) {
    s0 += a[aAt + i] * b[bAt + i]
    s1 += a[aAt + i + 1] * b[bAt + i + 1]
    s2 += a[aAt + i + 2] * b[bAt + i + 2]
    s3 += a[aAt + i + 3] * b[bAt + i + 3]
  }
  for (; i < length; i++) s0 += a[aAt + i] * b[bAt + i]
  return s0 + s1 + (s2 + s3)
}
