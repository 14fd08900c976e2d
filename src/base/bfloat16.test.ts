import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decodeBfloat16, encodeBfloat16, fromBfloat16, toBfloat16 } from './bfloat16.ts'

const words = Uint16Array.from({ length: 65536 }, (_, word) => word)

test('every bfloat16 survives float32 and back, NaN as NaN', () => {
  const back = encodeBfloat16(decodeBfloat16(words))
  for (const word of words) {
    if (Number.isNaN(fromBfloat16(word))) assert.ok(Number.isNaN(fromBfloat16(back[word])), word.toString(16))
    else assert.equal(back[word], word)
  }
})

test('a float32 becomes the nearest bfloat16, ties to even', () => {
  const cases: [value: number, word: number][] = [
    [1, 0x3f80],
    [-0, 0x8000],
    [1 + 2 ** -8, 0x3f80], // halfway, 0x3f80 is even
    [1 + 3 * 2 ** -8, 0x3f82], // halfway, 0x3f82 is even
    [1 + 2 ** -8 + 2 ** -23, 0x3f81],
    [3.4028234663852886e38, 0x7f80], // the largest float32 is nearer to infinity's place
    [-Infinity, 0xff80],
    [2 ** -133, 0x0001], // the smallest subnormal
    [2 ** -149, 0x0000],
  ]
  for (const [value, word] of cases) assert.equal(toBfloat16(value), word, String(value))
  assert.ok(Number.isNaN(fromBfloat16(toBfloat16(Number.NaN))))
})
