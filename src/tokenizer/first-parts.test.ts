import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../base/random.ts'
import { createFirstParts } from './first-parts.ts'
import { createMergeLong } from './merge.ts'
import { loadVocabulary } from './vocabulary.node.ts'
import { unpackVocabulary } from './vocabulary.ts'

const vocabulary = unpackVocabulary(await loadVocabulary())
const { bytes: pool, offsets, size, byteIds, pairs } = vocabulary
const encoder = new TextEncoder()
const firstParts = createFirstParts(vocabulary)
const merge = createMergeLong(pairs, size)

function fromBytes(bytes: Uint8Array): number[] {
  const out: number[] = []
  merge(
    Int32Array.from(bytes, byte => byteIds[byte]),
    bytes.length,
    out,
  )
  return out
}

function fromFirstParts(bytes: Uint8Array): { ids: number[]; count: number } {
  const parts = new Int32Array(bytes.length)
  const count = firstParts(bytes, 0, bytes.length, parts)
  const ids: number[] = []
  merge(parts, count, ids)
  return { ids, count }
}

const tokens = Array.from({ length: size }, (_, id) => pool.subarray(offsets[id], offsets[id + 1]))
const decode = (bytes: Uint8Array): string => new TextDecoder().decode(bytes)

/** Tokens outside ASCII, and what is whole of those that begin or end inside a character. */
const pieces = tokens
  .filter(bytes => bytes.some(byte => byte >= 0x80))
  .map(bytes => decode(bytes).replaceAll('\ufffd', ''))
  .filter(text => text !== '')
const torn = tokens.filter(bytes => bytes.length > 2 && decode(bytes).includes('\ufffd'))

/** Text in which a torn token has found its missing bytes. */
function mended(bytes: Uint8Array, random: () => number): string {
  const byte = () => 0x80 + Math.floor(64 * random())
  const lead = () => 0xe2 + Math.floor(11 * random())
  const before = (bytes[0] & 0xc0) === 0x80 ? [lead(), byte()].slice(0, 1 + Math.floor(2 * random())) : []
  return decode(Uint8Array.of(...before, ...bytes, byte(), byte())).replaceAll('\ufffd', '')
}

test('parts that begin as whole characters merge into what their bytes merge into', () => {
  const random = seededRandom(21)
  const draw = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]
  let numBytes = 0
  let numParts = 0
  for (let n = 0; n < 20_000; n++) {
    const length = 1 + Math.floor(6 * random())
    const text = Array.from({ length }, () => (random() < 0.5 ? draw(pieces) : mended(draw(torn), random))).join('')
    const bytes = encoder.encode(text)
    const { ids, count } = fromFirstParts(bytes)
    assert.deepEqual(ids, fromBytes(bytes), JSON.stringify(text))
    numBytes += bytes.length
    numParts += count
  }
  assert.ok(numParts < 0.9 * numBytes, `${numParts} parts of ${numBytes} bytes: hardly any character began whole`)
})

test('Chinese begins as characters, ASCII as bytes', () => {
  assert.equal(fromFirstParts(encoder.encode('大家好')).count, 3)
  assert.equal(fromFirstParts(encoder.encode('tokens')).count, 6)
})
