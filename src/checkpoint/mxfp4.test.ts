import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import fc from 'fast-check'
import { decodeMxfp4, decodeMxfp4AsBfloat16, encodeMxfp4 } from './mxfp4.ts'

const golden = JSON.parse(readFileSync(new URL('../../test/golden/mxfp4/mxfp4.json', import.meta.url), 'utf8'))

test('every golden block decodes to the bits of the reference', () => {
  assert.ok(golden.blocks.length >= 14)
  for (const { why, scale, bytes, bf16 } of golden.blocks) {
    if (scale === 255) continue // not a number by the standard, see below
    const words = decodeMxfp4AsBfloat16(Uint8Array.from(bytes), Uint8Array.of(scale))
    assert.deepEqual(Array.from(words, hex), bf16, why)
  }
})

test('a tensor decodes to the values of the reference, in order', () => {
  const { blocks, scales, values } = golden.tensor
  const decoded = decodeMxfp4(Uint8Array.from(blocks.flat(3)), Uint8Array.from(scales.flat(2)))
  assert.deepEqual([...decoded], values.flat(2))
})

test('every byte at every scale from 0 to 254 decodes to the bits of the reference', () => {
  for (const [last, sha256] of Object.entries(golden.table_sha256)) {
    const { blocks, scales } = allBytes(Number(last))
    const words = decodeMxfp4AsBfloat16(blocks, scales)
    assert.equal(createHash('sha256').update(new Uint8Array(words.buffer)).digest('hex'), sha256, `scales 0 to ${last}`)
  }
})

test('scale 255 is NaN for all 32 values', () => {
  const { blocks } = allBytes(0)
  for (const value of decodeMxfp4(blocks, new Uint8Array(16).fill(255))) assert.ok(Number.isNaN(value))
})

test('what was MXFP4 packs back without loss, whatever the codes and scales', () => {
  const { blocks, scales } = allBytes(252)
  const values = decodeMxfp4(blocks, scales)
  const packed = encodeMxfp4(values)
  assert.deepEqual(decodeMxfp4(packed.blocks, packed.scales), values)
  const group = fc.tuple(fc.uint8Array({ minLength: 16, maxLength: 16 }), fc.integer({ min: 0, max: 252 }))
  fc.assert(
    fc.property(group, ([codes, scale]) => {
      const values = decodeMxfp4(codes, Uint8Array.of(scale))
      const { blocks, scales } = encodeMxfp4(values)
      assert.deepEqual(decodeMxfp4(blocks, scales), values)
    }),
  )
})

test('packing takes the nearest code, ties to the even one, and saturates', () => {
  const cases: [value: number, packed: number][] = [
    [0.24, 0],
    [0.25, 0],
    [0.26, 0.5],
    [0.75, 1],
    [1.25, 1],
    [1.75, 2],
    [2.5, 2],
    [3.5, 4],
    [5, 4],
    [5.01, 6],
    [7.9, 6],
    [-0.75, -1],
    [-0, -0],
  ]
  for (const [value, expected] of cases) {
    const values = new Float32Array(32)
    values.set([value, 4]) // 4 gives the scale 2^0
    const { blocks, scales } = encodeMxfp4(values)
    assert.equal(scales[0], 127)
    assert.equal(decodeMxfp4(blocks, scales)[0], expected, String(value))
  }
})

test('packing refuses what MXFP4 cannot hold', () => {
  assert.throws(() => encodeMxfp4(new Float32Array(32).fill(Number.NaN)), /cannot hold NaN/)
  assert.throws(() => encodeMxfp4(new Float32Array(32).fill(-Infinity)), /cannot hold -Infinity/)
  assert.throws(() => encodeMxfp4(new Float32Array(33)), /33 numbers are not whole groups of 32/)
  assert.throws(() => decodeMxfp4(new Uint8Array(17), new Uint8Array(1)), /1 scales need 16 bytes of blocks, not 17/)
})

const hex = (word: number): string => word.toString(16).padStart(4, '0')

/** Every byte, in 16 groups, at every scale up to this one. */
function allBytes(lastScale: number): { blocks: Uint8Array; scales: Uint8Array } {
  const groups = (lastScale + 1) * 16
  return {
    blocks: Uint8Array.from({ length: groups * 16 }, (_, i) => i & 255),
    scales: Uint8Array.from({ length: groups }, (_, group) => group >> 4),
  }
}
