import { encodeBfloat16 } from '../base/bfloat16.ts'
import { decodeMxfp4Row, mxfp4GroupSize } from '../base/mxfp4.ts'

/** Numbers as MXFP4: 16 bytes of `blocks` and one of `scales` for every 32. */
export interface Mxfp4 {
  readonly blocks: Uint8Array<ArrayBuffer>
  readonly scales: Uint8Array<ArrayBuffer>
}

/**
 * The numbers of whole groups, as float32. Exact at scales 0 to 252; at 253 and 254 large codes are infinite, as they are
 * in bfloat16 too; 255 is NaN for all 32 (by the OCP standard; what the reference gives there depends on its PyTorch).
 */
export function decodeMxfp4(blocks: Uint8Array, scales: Uint8Array): Float32Array<ArrayBuffer> {
  if (blocks.length !== scales.length * 16) {
    throw new RangeError(`${scales.length} scales need ${scales.length * 16} bytes of blocks, not ${blocks.length}`)
  }
  const out = new Float32Array(scales.length * mxfp4GroupSize)
  decodeMxfp4Row(blocks, scales, 0, out)
  return out
}

/** The same as bfloat16 bits, which lose nothing. */
export function decodeMxfp4AsBfloat16(blocks: Uint8Array, scales: Uint8Array): Uint16Array<ArrayBuffer> {
  return encodeBfloat16(decodeMxfp4(blocks, scales))
}

/**
 * The nearest MXFP4 of finite numbers, whole groups of them: per group the OCP standard's scale (the largest number's
 * exponent less 2), ties to the even code, beyond 6 · 2^scale saturated. Numbers that came from MXFP4 lose nothing.
 */
export function encodeMxfp4(values: Float32Array): Mxfp4 {
  if (values.length % mxfp4GroupSize !== 0) throw new RangeError(`${values.length} numbers are not whole groups of 32`)
  const groups = values.length / mxfp4GroupSize
  const blocks = new Uint8Array(groups * 16)
  const scales = new Uint8Array(groups)
  for (let group = 0; group < groups; group++) {
    const first = group * mxfp4GroupSize
    const scale = groupScale(values.subarray(first, first + mxfp4GroupSize))
    const factor = 2 ** (127 - scale)
    scales[group] = scale
    for (let i = 0; i < 16; i++) {
      const low = nearestCode(values[first + 2 * i] * factor)
      const high = nearestCode(values[first + 2 * i + 1] * factor)
      blocks[group * 16 + i] = low | (high << 4)
    }
  }
  return { blocks, scales }
}

/** The scale byte of a group; 0 where all is zero. */
function groupScale(values: Float32Array): number {
  let largest = 0
  for (const value of values) {
    if (!Number.isFinite(value)) throw new RangeError(`MXFP4 cannot hold ${value}`)
    largest = Math.max(largest, Math.abs(value))
  }
  return Math.max(0, exponentOf(largest) - 2 + 127)
}

/** floor(log2(x)), exact also for subnormals; −Infinity for 0. */
function exponentOf(x: number): number {
  const guess = Math.floor(Math.log2(x))
  if (2 ** guess > x) return guess - 1
  return 2 ** (guess + 1) <= x ? guess + 1 : guess
}

/** Halfway between neighbouring FP4 magnitudes; a tie goes to the even code. */
const midpoints = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5]

function nearestCode(value: number): number {
  const magnitude = Math.abs(value)
  let code = 0
  while (code < 7 && (magnitude > midpoints[code] || (magnitude === midpoints[code] && code % 2 === 1))) code++
  return Object.is(value, -0) || value < 0 ? code | 8 : code
}
