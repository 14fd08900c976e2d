import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CheckpointError } from '../base/errors.ts'
import { loadVocabulary } from './vocabulary.node.ts'
import { packVocabulary, unpackVocabulary } from './vocabulary.ts'

const bytes = Array.from({ length: 256 }, (_, byte) => Uint8Array.of(255 - byte))
const small = [...bytes, Uint8Array.of(97, 98), Uint8Array.of(97, 98, 99), Uint8Array.of(99, 97, 98, 99)]

test('unpacking gives back what was packed', () => {
  const { size, bytes, offsets, byteIds, pairs } = unpackVocabulary(packVocabulary(small))
  assert.equal(size, 259)
  assert.deepEqual(
    Array.from({ length: size }, (_, id) => bytes.slice(offsets[id], offsets[id + 1])),
    small,
  )
  assert.equal(byteIds[97], 158)
  assert.equal(pairs.get(byteIds[97], byteIds[98]), 256)
  assert.equal(pairs.get(256, byteIds[99]), 257)
  assert.equal(pairs.get(byteIds[99], 257), 258)
  assert.equal(pairs.get(byteIds[98], byteIds[99]), -1)
})

test('o200k is packed from its tokens as it was', async () => {
  const data = await loadVocabulary()
  const { size, bytes, offsets } = unpackVocabulary(data)
  const tokens = Array.from({ length: size }, (_, id) => bytes.subarray(offsets[id], offsets[id + 1]))
  assert.equal(size, 199998)
  assert.ok(Buffer.from(packVocabulary(tokens)).equals(data))
})

const wrong: [name: string, make: () => unknown, message: RegExp][] = [
  ['too short', () => unpackVocabulary(new Uint8Array(255)), /has 255 bytes, expected 256 \+ 6 for each merge/],
  ['not whole merges', () => unpackVocabulary(new Uint8Array(260)), /has 260 bytes/],
  ['a merge of later tokens', () => unpackVocabulary(packVocabulary(small).fill(255, 256, 258)), /which come later/],
  ['bytes in later tokens', () => packVocabulary(small.slice(1)), /not the 256 single bytes/],
  ['a byte twice', () => packVocabulary([bytes[1], ...bytes.slice(1)]), /not the 256 single bytes/],
  [
    'a token of three',
    () => packVocabulary([...bytes, Uint8Array.of(1, 2, 3)]),
    /Token 256 is made of 3 earlier tokens/,
  ],
  ['a token twice', () => packVocabulary([...small, small[256]]), /Token 259 is made of 1 earlier tokens/],
]
for (const [name, make, message] of wrong) {
  test(`a vocabulary is refused: ${name}`, () => {
    assert.throws(make, (error: Error) => error instanceof CheckpointError && message.test(error.message))
  })
}
