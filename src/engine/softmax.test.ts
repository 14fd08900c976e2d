import assert from 'node:assert/strict'
import { test } from 'node:test'
import { drawFromAll, sumOfWeights } from './softmax.ts'

/** Tokens of weight 1 here, of none elsewhere. */
const among = (length: number, ids: number[]) => {
  const logits = new Float32Array(length).fill(-Infinity)
  for (const id of ids) logits[id] = 3
  return logits
}
const almostOne = 1 - 2 ** -53

const draws: [name: string, length: number, ids: number[], draw: number, expected: number][] = [
  ['the beginning is the first that has weight', 10, [4, 7], 0, 4],
  ['below a half', 10, [4, 7], 0.4999, 4],
  ['exactly a half is the second', 10, [4, 7], 0.5, 7],
  ['the very end is the last that has weight', 10, [4, 7], almostOne, 7],
  ['so it is among five', 10, [1, 2, 3, 4, 5], almostOne, 5],
  ['a lone token takes all', 1, [0], almostOne, 0],
  ['blocks of 512: in the first', 2000, [511, 512, 1999], 0.3, 511],
  ['blocks of 512: at the edge', 2000, [511, 512, 1999], 0.34, 512],
  ['blocks of 512: over empty ones', 2000, [511, 512, 1999], 0.67, 1999],
  ['blocks of 512: not behind the last', 2000, [5, 600], almostOne, 600],
]
for (const [name, length, ids, draw, expected] of draws) {
  test(`a draw of ${draw} among ${ids}: ${name}`, () => {
    for (const temperature of [1e-6, 1, 1e6]) {
      assert.equal(drawFromAll(among(length, ids), 3, temperature, draw), expected)
    }
  })
}

test('no draw ends at a token without weight, however the product rounds', () => {
  for (let n = 1; n <= 200; n++) {
    const ids = Array.from({ length: n }, (_, i) => i)
    assert.equal(drawFromAll(among(n + 10, ids), 3, 1, almostOne), n - 1)
  }
})

test('the sum of weights is that of the exponentials', () => {
  const logits = Float32Array.from({ length: 1300 }, (_, i) => Math.sin(i) * 8)
  const largest = Math.max(...logits)
  for (const temperature of [0.5, 1, 2]) {
    const right = logits.reduce((sum, logit) => sum + Math.exp((logit - largest) / temperature), 0)
    assert.ok(Math.abs(sumOfWeights(logits, largest, temperature) / right - 1) < 1e-14) // rounding of as many sums
  }
})
