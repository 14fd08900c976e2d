import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { seededRandom } from '../base/random.ts'
import { createMergeLong, mergeShort } from './merge.ts'
import { createPairs } from './pairs.ts'
import { loadVocabulary } from './vocabulary.node.ts'
import { unpackVocabulary, type Vocabulary } from './vocabulary.ts'

let vocabulary: Vocabulary
before(async () => {
  vocabulary = unpackVocabulary(await loadVocabulary())
})

/** Byte pair encoding as it is defined: of all neighbours whose bytes together are a token, the lowest merge first. */
function byDefinition(bytes: Uint8Array, ranks: ReadonlyMap<string, number>): number[] {
  const parts = Array.from(bytes, byte => String.fromCharCode(byte))
  for (;;) {
    const merged = parts.slice(1).map((part, at) => ranks.get(parts[at] + part) ?? Number.POSITIVE_INFINITY)
    const lowest = Math.min(...merged)
    if (lowest === Number.POSITIVE_INFINITY) return parts.map(part => ranks.get(part)!)
    const at = merged.indexOf(lowest)
    parts.splice(at, 2, parts[at] + parts[at + 1])
  }
}

function idsOf(bytes: Uint8Array): Int32Array {
  return Int32Array.from(bytes, byte => vocabulary.byteIds[byte])
}

const alphabets: [name: string, pieces: string[]][] = [
  ['one letter', ['a']],
  ['two letters', ['a', 'b']],
  ['English letters', [...'etaoinshrdlucmfwypvbgkjqxz']],
  ['syllables', ['the', 'ing', 'er', 'un', 'a', 'o', 'tion', ' ']],
  ['white space', [' ', '  ', '\n', '\t']],
  ['Chinese', [...'的一是不了人我在有他这中大来上国']],
  ['emoji', ['🙂', '\u200d', '👩', '🚀', '🏽']],
]

for (const [name, pieces] of alphabets) {
  test(`both algorithms do what the definition says: ${name}`, () => {
    const { bytes: pool, offsets, size, pairs } = vocabulary
    const ranks = new Map<string, number>()
    for (let id = 0; id < size; id++) ranks.set(String.fromCharCode(...pool.subarray(offsets[id], offsets[id + 1])), id)
    const random = seededRandom(12)
    const mergeLong = createMergeLong(pairs, size)
    for (let length = 1; length <= 150; length++) {
      const text = Array.from({ length }, () => pieces[Math.floor(random() * pieces.length)]).join('')
      const bytes = new TextEncoder().encode(text).subarray(0, 150)
      const expected = byDefinition(bytes, ranks)
      const short: number[] = []
      mergeShort(pairs, idsOf(bytes), bytes.length, short)
      assert.deepEqual(short, expected, text)
      const long: number[] = []
      mergeLong(idsOf(bytes), bytes.length, long)
      assert.deepEqual(long, expected, text)
    }
  })
}

test('both algorithms agree on long pieces, whatever came before', () => {
  const random = seededRandom(13)
  const mergeLong = createMergeLong(vocabulary.pairs, vocabulary.size)
  for (const length of [2000, 3, 5000, 1, 1025, 0, 70_000, 300]) {
    const bytes = Uint8Array.from({ length }, () => 97 + Math.floor(random() * random() * 26))
    const long: number[] = []
    mergeLong(idsOf(bytes), length, long)
    if (length > 10_000) {
      assert.equal(
        long.reduce((sum, id) => sum + vocabulary.offsets[id + 1] - vocabulary.offsets[id], 0),
        length,
      )
      continue // the short algorithm is quadratic
    }
    const short: number[] = []
    mergeShort(vocabulary.pairs, idsOf(bytes), length, short)
    assert.deepEqual(long, short)
  }
})

test('the table of pairs keeps all ids apart, the highest too', () => {
  const last = 2 ** 18 - 1
  const pairs = createPairs(2 ** 18)
  const corners = [0, 1, 2, 2 ** 14 - 1, 2 ** 14, 2 ** 17, last - 1]
  for (const [a, left] of corners.entries())
    for (const [b, right] of corners.entries()) pairs.add(left, right, last - 1 - a * 7 - b)
  for (const [a, left] of corners.entries())
    for (const [b, right] of corners.entries()) assert.equal(pairs.get(left, right), last - 1 - a * 7 - b)
  assert.equal(pairs.get(3, 3), -1)
  assert.equal(pairs.get(0, last), -1)
  assert.throws(() => createPairs(2 ** 18 + 1), RangeError)
})
