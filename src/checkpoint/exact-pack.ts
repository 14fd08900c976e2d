import { fromBfloat16, toBfloat16 } from '../base/bfloat16.ts'
import { fp4Values } from '../base/mxfp4.ts'
import type { Mxfp4 } from './mxfp4.ts'

/** Numbers as other programs store them, that may be bfloat16's or MXFP4's own. Here nothing is ever rounded. */
export type FloatType = 'BF16' | 'F16' | 'F32'

export const floatBytes: Readonly<Record<FloatType, number>> = { BF16: 2, F16: 2, F32: 4 }

export const isFloatType = (dataType: string): dataType is FloatType => dataType in floatBytes

/** float16 bits → those of the same number in bfloat16; −1 where it has none. */
let float16Words: Int32Array | undefined

/** The numbers as bfloat16 bits, in `words`. Returns the place of the first that bfloat16 cannot hold, −1 if there is none. */
export function exactBfloat16(dataType: FloatType, bytes: Uint8Array, words: Uint16Array): number {
  const { buffer, byteOffset } = bytes
  if (dataType === 'BF16') {
    words.set(new Uint16Array(buffer, byteOffset, words.length))
    return -1
  }
  if (dataType === 'F32') {
    const numbers = new Uint32Array(buffer, byteOffset, words.length)
    for (let i = 0; i < words.length; i++) {
      if (numbers[i] & 0xffff) return i
      words[i] = numbers[i] >>> 16
    }
    return -1
  }
  float16Words ??= makeFloat16Words()
  const numbers = new Uint16Array(buffer, byteOffset, words.length)
  for (let i = 0; i < words.length; i++) {
    const word = float16Words[numbers[i]]
    if (word < 0) return i
    words[i] = word
  }
  return -1
}

/** The number at a place of a tensor's bytes, for messages. */
export function numberAt(dataType: FloatType, bytes: Uint8Array, index: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  if (dataType === 'F32') return view.getFloat32(4 * index, true)
  const word = view.getUint16(2 * index, true)
  return dataType === 'BF16' ? fromBfloat16(word) : fromFloat16(word)
}

function fromFloat16(word: number): number {
  const sign = word & 0x8000 ? -1 : 1
  const [exponent, fraction] = [(word >> 10) & 31, word & 1023]
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return sign * (exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24)
}

function makeFloat16Words(): Int32Array {
  const [float, bits] = [new Float32Array(1), new Uint32Array(1)]
  return Int32Array.from({ length: 65536 }, (_, word) => {
    float[0] = fromFloat16(word) // exact
    bits.set(new Uint32Array(float.buffer))
    return bits[0] & 0xffff ? -1 : bits[0] >>> 16
  })
}

/**
 * What a bfloat16 number, by its bits without the sign, asks of its group's scale byte: `least` and `most`. A scale one
 * higher makes its code 2 lower: `rung` less twice the scale gives the code, by the table. Zero asks nothing. What no
 * scale makes exact asks the impossible, and so do the infinities, which do not say what overflowed.
 */
interface Demands {
  readonly least: Uint8Array
  readonly most: Uint8Array
  readonly rung: Int16Array
}
let knownDemands: Demands | undefined

const maxScale = 254
const zeroRung = 2 * maxScale + 8 // above every code, at every scale

/** The code of a number so many rungs above twice the scale: a table, for the codes are too random for a branch. */
const codes = new Uint8Array(zeroRung + 1)
codes.set([1, 0, 2, 3, 4, 5, 6, 7])

function makeDemands(): Demands {
  const least = new Uint8Array(32768).fill(maxScale + 1)
  const most = new Uint8Array(32768)
  const rung = new Int16Array(32768)
  for (let scale = 0; scale <= maxScale; scale++) {
    for (let code = 1; code < 8; code++) {
      const word = toBfloat16(fp4Values[code] * 2 ** (scale - 127)) // exact, or infinite
      if (word === 0x7f80) continue
      least[word] = Math.min(least[word], scale)
      most[word] = scale
      rung[word] = 2 * scale + (code === 1 ? 0 : code)
    }
  }
  least[0] = 0
  most[0] = maxScale
  rung[0] = zeroRung
  return { least, most, rung }
}

/** A group of 32 numbers that is not MXFP4. */
export interface UnfitGroup {
  readonly row: number
  readonly group: number
}

/**
 * Packs numbers that lie as transformers stores experts, [columns, rows] with the columns in whole groups of 32, into
 * `packed`, which lies as MXFP4 does: [rows, groups, 16] and [rows, groups]. They go to the groups from `firstGroup` on.
 * Each group has the smallest scale that holds its numbers, which is the OCP standard's; one of zeros has 0. Returns the
 * first group that no scale holds exactly; what is packed is then incomplete.
 */
export function packExactly(
  words: Uint16Array,
  rows: number,
  packed: Mxfp4,
  firstGroup: number,
): UnfitGroup | undefined {
  const groupsHere = words.length / rows / 32
  const groups = packed.scales.length / rows
  for (let group = 0; group < groupsHere; group++) {
    const slab = words.subarray(group * 32 * rows, (group + 1) * 32 * rows)
    const unfit = packSlab(slab, rows, packed, firstGroup + group, groups)
    if (unfit >= 0) return { row: unfit, group: firstGroup + group }
  }
  return undefined
}

/** One group of every row. Returns the first row whose group does not fit, −1 if all do. Reads in the order of memory. */
function packSlab(words: Uint16Array, rows: number, packed: Mxfp4, group: number, groups: number): number {
  knownDemands ??= makeDemands()
  const { least, most, rung } = knownDemands
  const { blocks, scales } = packed
  const rowScales = new Uint8Array(rows)
  const limits = new Uint8Array(rows).fill(maxScale)
  for (let begin = 0; begin < words.length; begin += rows) {
    for (let row = 0; row < rows; row++) {
      const word = words[begin + row] & 0x7fff
      if (least[word] > rowScales[row]) rowScales[row] = least[word]
      if (most[word] < limits[row]) limits[row] = most[word]
    }
  }
  const unfit = rowScales.findIndex((scale, row) => scale > limits[row])
  if (unfit >= 0) return unfit
  for (let row = 0; row < rows; row++) scales[row * groups + group] = rowScales[row]
  for (let i = 0; i < 16; i++) {
    const low = 2 * i * rows
    const high = low + rows
    for (let row = 0, out = group * 16 + i; row < rows; row++, out += groups * 16) {
      const base = 2 * rowScales[row]
      const lowWord = words[low + row]
      const highWord = words[high + row]
      const lowCode = codes[rung[lowWord & 0x7fff] - base] | ((lowWord >> 12) & 8)
      const highCode = codes[rung[highWord & 0x7fff] - base] | ((highWord >> 12) & 8)
      blocks[out] = lowCode | (highCode << 4)
    }
  }
  return -1
}

/** Why these 32 numbers are no group of MXFP4's. */
export function whyUnfit(values: readonly number[]): string {
  knownDemands ??= makeDemands()
  const strange = values.find(value => !isOnGrid(value))
  if (strange !== undefined) return `${show(strange)} among them is neither 0 nor 2^n nor 1.5 · 2^n, n from −128 to 127`
  const sizes = values.map(Math.abs).filter(size => size > 0)
  return `${show(Math.min(...sizes))} and ${show(Math.max(...sizes))} among them need different scales`
}

const show = (value: number): string => String(Number(value.toPrecision(9)))

function isOnGrid(value: number): boolean {
  const words = new Uint16Array(1)
  const bytes = new Uint8Array(Float32Array.of(Math.abs(value)).buffer)
  return exactBfloat16('F32', bytes, words) < 0 && knownDemands!.least[words[0]] <= maxScale
}
