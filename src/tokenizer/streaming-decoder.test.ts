import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import fc from 'fast-check'
import { RequestError } from '../base/errors.ts'
import { loadTokenizer } from './load.ts'
import { StreamingDecoder } from './streaming-decoder.ts'
import { readGoldens } from './testing.ts'
import type { Tokenizer } from './tokenizer.ts'

let tokenizer: Tokenizer
before(async () => {
  tokenizer = await loadTokenizer()
})

function stream(ids: readonly number[]): string[] {
  const decoder = new StreamingDecoder(tokenizer)
  return [...ids.map(id => decoder.push(id)), decoder.finish()]
}

test('a character comes out with its last token', () => {
  const ids = tokenizer.encode('é🫠')
  assert.ok(ids.length > 2)
  const chunks = stream(ids)
  assert.equal(chunks[0], 'é')
  assert.equal(chunks.at(-2), '🫠')
  assert.deepEqual(
    chunks.slice(1, -2),
    ids.slice(2).map(() => ''),
  )
})

test('the chunks of every golden together are the whole text, none ends within a character', () => {
  const { encode, decode } = readGoldens()
  for (const { ids } of encode) check(ids, tokenizer.decode(ids))
  for (const { ids, text } of decode) if (text !== undefined) check(ids, text)
})

test('so are those of any ids', () => {
  const id = fc.oneof(fc.nat(255), fc.nat(1000), fc.nat(201087))
  fc.assert(
    fc.property(fc.array(id, { maxLength: 20 }), ids => check(ids, tokenizer.decode(ids))),
    { numRuns: 2000 },
  )
})

test('an unknown id is refused, and what waited still waits', () => {
  const decoder = new StreamingDecoder(tokenizer)
  const [first, ...rest] = tokenizer.encode('🫠')
  decoder.push(first)
  assert.throws(() => decoder.push(201089), RequestError)
  assert.equal(rest.map(id => decoder.push(id)).join(''), '🫠')
})

function check(ids: readonly number[], text: string): void {
  const chunks = stream(ids)
  assert.equal(chunks.join(''), text, `${ids}`)
  for (const chunk of chunks) assert.ok(chunk.isWellFormed(), `${ids}: ${JSON.stringify(chunk)}`)
}
