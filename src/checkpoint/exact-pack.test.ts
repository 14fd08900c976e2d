import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { decodeBfloat16, encodeBfloat16, fromBfloat16, toBfloat16 } from '../base/bfloat16.ts'
import { exactBfloat16, numberAt, packExactly, whyUnfit } from './exact-pack.ts'
import { decodeMxfp4, encodeMxfp4, type Mxfp4 } from './mxfp4.ts'

const newPacked = (groups: number): Mxfp4 => ({ blocks: new Uint8Array(groups * 16), scales: new Uint8Array(groups) })

/** Packs rows of numbers [rows, columns], given transposed. */
function pack(values: Float32Array, rows: number): Mxfp4 | { row: number; group: number } {
  const columns = values.length / rows
  const transposed = new Float32Array(values.length)
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      transposed[column * rows + row] = values[row * columns + column]
    }
  }
  const packed = newPacked(values.length / 32)
  return packExactly(encodeBfloat16(transposed), rows, packed, 0) ?? packed
}

/** Fails where the numbers do not come back bit for bit, minus zero included. */
function assertLossless(values: Float32Array, rows: number): void {
  const packed = pack(values, rows)
  assert.ok('blocks' in packed, JSON.stringify(packed))
  assert.ok(equalBytes(decodeMxfp4(packed.blocks, packed.scales), values))
  const canonical = encodeMxfp4(values)
  assert.ok(equalBytes(packed.blocks, canonical.blocks) && equalBytes(packed.scales, canonical.scales))
}

function equalBytes(a: ArrayBufferView, b: ArrayBufferView): boolean {
  const [left, right] = [a, b].map(view => Buffer.from(view.buffer, view.byteOffset, view.byteLength))
  return left.equals(right)
}

test('every byte at every scale packs back to the same numbers, bit for bit', () => {
  for (let scale = 0; scale <= 254; scale++) {
    // Two groups share a row: one of the byte alone, and one with it among zeros of either sign.
    const blocks = new Uint8Array(256 * 32)
    for (let byte = 0; byte < 256; byte++) {
      blocks.fill(byte, byte * 32, byte * 32 + 16)
      blocks.set([0x80, byte, 0x08], byte * 32 + 16)
    }
    const values = decodeMxfp4(blocks, new Uint8Array(512).fill(scale))
    let numLossless = 0
    for (let byte = 0; byte < 256; byte++) {
      const row = values.slice(byte * 64, byte * 64 + 64)
      if (!row.every(Number.isFinite)) continue
      assertLossless(row, 1)
      numLossless++
    }
    // Above 252 the largest codes overflow: 6 and 7 of 8, then 4 to 7.
    assert.equal(numLossless, scale <= 252 ? 256 : scale === 253 ? 144 : 64)
  }
})

test('every pair of codes in one group packs back, at every scale', () => {
  const pairs = [...Array(256).keys()].filter(byte => (byte & 7) > 0)
  for (let scale = 0; scale <= 252; scale++) {
    const blocks = Uint8Array.from({ length: pairs.length * 16 }, (_, i) => pairs[i >> 4] ^ (i & 1 ? 0x88 : 0))
    assertLossless(decodeMxfp4(blocks, new Uint8Array(pairs.length).fill(scale)), 1)
  }
})

test('random groups pack back whatever their codes, scales and rows', () => {
  const case_ = fc.record({
    rows: fc.integer({ min: 1, max: 5 }),
    groups: fc.integer({ min: 1, max: 4 }),
    seed: fc.uint8Array({ minLength: 320, maxLength: 320 }),
  })
  fc.assert(
    fc.property(case_, ({ rows, groups, seed }) => {
      const scales = seed.slice(0, rows * groups).map(scale => Math.min(scale, 252))
      const blocks = Uint8Array.from({ length: rows * groups * 16 }, (_, i) => seed[(i * 7 + (i >> 5)) % 320])
      assertLossless(decodeMxfp4(blocks, scales), rows)
    }),
  )
})

test('a number fits beside others exactly where some scale has both, by trying all', () => {
  const sizes = new Set<number>()
  for (let scale = 100; scale <= 112; scale++)
    for (const value of [0.5, 1, 1.5, 2, 3, 4, 6]) sizes.add(value * 2 ** (scale - 127))
  for (const one of sizes) {
    for (const other of sizes) {
      const values = new Float32Array(32)
      values.set([one, -other], 3)
      let fits = false
      for (let scale = 95; scale <= 115; scale++) fits ||= isCode(one, scale) && isCode(other, scale)
      assert.equal('blocks' in pack(values, 1), fits, `${one} and ${other}`)
    }
  }
})

const isCode = (value: number, scale: number) => [0, 0.5, 1, 1.5, 2, 3, 4, 6].includes(value / 2 ** (scale - 127))

test('of all bfloat16 numbers those fit that are 2^n or 1.5 · 2^n in reach of a scale', () => {
  const reachable = new Set<number>([0])
  for (let scale = 0; scale <= 254; scale++) {
    for (const value of [0.5, 1, 1.5, 2, 3, 4, 6]) reachable.add(Math.fround(value * 2 ** (scale - 127)))
  }
  reachable.delete(Number.POSITIVE_INFINITY)
  const [words, packed] = [new Uint16Array(32), newPacked(1)]
  for (let word = 0; word < 65536; word++) {
    words[7] = word
    const fits = packExactly(words, 1, packed, 0) === undefined
    const value = fromBfloat16(word)
    if (fits !== reachable.has(Math.abs(value))) assert.fail(`${value}: ${fits}`)
  }
})

test('what does not fit is told by row and group, with the reason', () => {
  const values = new Float32Array(3 * 64).fill(1)
  values[2 * 64 + 40] = 2 ** -9
  assert.deepEqual(pack(values, 3), { row: 2, group: 1 })
  assert.equal(whyUnfit([1, 0, 2 ** -9, -1]), '0.001953125 and 1 among them need different scales')
  assert.equal(whyUnfit([1, 0.3, -0]), '0.3 among them is neither 0 nor 2^n nor 1.5 · 2^n, n from −128 to 127')
  assert.match(whyUnfit([1, Number.NaN]), /^NaN among them/)
  assert.match(whyUnfit([1, Number.NEGATIVE_INFINITY]), /^-Infinity among them/)
})

test('pieces of a matrix go to their own groups', () => {
  const whole = decodeMxfp4(
    Uint8Array.from({ length: 64 }, (_, i) => i * 37),
    Uint8Array.of(120, 3, 250, 127),
  )
  const packed = newPacked(4)
  for (const group of [1, 0]) {
    const words = encodeBfloat16(
      Float32Array.from({ length: 64 }, (_, i) => whole[(i & 1) * 64 + group * 32 + (i >> 1)]),
    )
    assert.equal(packExactly(words, 2, packed, group), undefined)
  }
  assert.deepEqual(decodeMxfp4(packed.blocks, packed.scales), whole)
})

test('float16 and float32 become bfloat16 where that loses nothing', () => {
  const bytes = (values: Float32Array) => new Uint8Array(values.buffer)
  const exact = Float32Array.of(1, -0, 1.5, 2 ** -133, -3e38, Number.POSITIVE_INFINITY)
  exact[4] = decodeBfloat16(encodeBfloat16(exact.slice(4, 5)))[0]
  const words = new Uint16Array(exact.length)
  assert.equal(exactBfloat16('F32', bytes(exact), words), -1)
  assert.deepEqual(decodeBfloat16(words), exact)
  assert.equal(exactBfloat16('F32', bytes(Float32Array.of(1, 0.1)), words.subarray(0, 2)), 1)
  const all = Uint16Array.from({ length: 65536 }, (_, i) => i)
  const halfBytes = new Uint8Array(all.buffer)
  let held = 0
  for (let i = 0; i < 65536; i++) {
    const value = numberAt('F16', halfBytes, i)
    if (Number.isNaN(value)) continue
    const word = new Uint16Array(1)
    const isHeld = exactBfloat16('F16', halfBytes.subarray(2 * i, 2 * i + 2), word) < 0
    if (isHeld !== Object.is(fromBfloat16(toBfloat16(value)), value)) assert.fail(String(value))
    if (!isHeld) continue
    if (!Object.is(fromBfloat16(word[0]), value)) assert.fail(String(value))
    held++
  }
  // Of each of 30 normal exponents 128 fractions; subnormal ones of at most 8 bits; zero and infinity; of both signs.
  const subnormal = [...Array(1023).keys()].filter(i => (i + 1).toString(2).replace(/0+$/, '').length <= 8).length
  assert.equal(held, 2 * (30 * 128 + subnormal + 2))
  assert.equal(numberAt('F16', new Uint8Array(Uint16Array.of(0x3555).buffer), 0), 0.333251953125)
})
