import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import fc from 'fast-check'
import { RequestError } from '../base/errors.ts'
import { loadTokenizer } from './load.ts'
import { mixedText, readGoldens } from './testing.ts'
import type { Tokenizer } from './tokenizer.ts'

const goldens = readGoldens()
let tokenizer: Tokenizer
before(async () => {
  tokenizer = await loadTokenizer()
})

for (const [group, cases] of Map.groupBy(goldens.encode, golden => golden.group)) {
  test(`ids are the reference's: ${group} (${cases.length})`, () => {
    for (const { text, ids } of cases) assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text))
  })
}

test(`special tokens are recognised where they are allowed (${goldens.encodeWithSpecials.length})`, () => {
  for (const { text, allowed, ids } of goldens.encodeWithSpecials)
    assert.deepEqual(tokenizer.encode(text, { allowedSpecial: allowed }), ids, text)
})

for (const [group, cases] of Map.groupBy(goldens.decode, golden => golden.group)) {
  test(`bytes and text are the reference's: ${group} (${cases.length})`, () => {
    for (const { ids, hex, text, error } of cases) {
      if (error !== undefined) {
        assert.throws(() => tokenizer.decode(ids), RequestError, `${ids}`)
        continue
      }
      assert.equal(Buffer.from(tokenizer.decodeBytes(ids)).toString('hex'), hex, `${ids}`)
      assert.equal(tokenizer.decode(ids), text, `${ids}`)
    }
  })
}

test('special tokens have the names of both references', () => {
  for (const [id, name, otherNames] of goldens.specialTokens) {
    assert.equal(tokenizer.specialName(id), name)
    for (const each of [name, ...otherNames]) assert.equal(tokenizer.specialId(each), id, each)
  }
})

const idsOfEveryKind: [id: number, special: boolean, exists: boolean][] = [
  [0, false, true],
  [199997, false, true],
  [199998, true, true],
  [201087, true, true],
  [201088, true, true],
  [201089, false, false],
  [-1, false, false],
  [1.5, false, false],
  [200000.5, false, false],
  [Number.NaN, false, false],
  [Number.POSITIVE_INFINITY, false, false],
]
for (const [id, special, exists] of idsOfEveryKind) {
  test(`id ${id} ${exists ? 'exists' : 'does not exist'} and is ${special ? 'special' : 'ordinary or nothing'}`, () => {
    assert.equal(tokenizer.isSpecial(id), special)
    assert.equal(tokenizer.tokenBytes(id) !== undefined, exists)
    assert.equal(tokenizer.specialName(id) !== undefined, special)
    if (!exists)
      assert.throws(() => tokenizer.decodeBytes([id]), /does not exist: ids are whole numbers from 0 to 201087/)
  })
}

test('a name in allowedSpecial that is no special token is refused', () => {
  assert.throws(() => tokenizer.encode('x', { allowedSpecial: ['<|strat|>'] }), /allowedSpecial names "<\|strat\|>"/)
})

test('names that are not the text of their token are recognised only when listed', () => {
  assert.deepEqual(tokenizer.encode('<|endofprompt|>', { allowedSpecial: ['<|endofprompt|>'] }), [200018])
  assert.ok(!tokenizer.encode('<|endofprompt|>', { allowedSpecial: 'all' }).includes(200018))
})

test('every token is encoded as itself from its own bytes', () => {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  let whole = 0
  for (let id = 0; id < 199998; id++) {
    let text: string
    try {
      text = decoder.decode(tokenizer.tokenBytes(id))
    } catch {
      continue // not whole characters
    }
    const ids = tokenizer.encode(text)
    if (ids.length !== 1) continue // the split pattern cuts it
    assert.equal(ids[0], id, JSON.stringify(text))
    whole++
  }
  assert.ok(whole > 190_000, `only ${whole}`)
})

test('any text comes back from its ids, and none of them is special', () => {
  fc.assert(
    fc.property(fc.oneof(mixedText, fc.string({ unit: 'binary' }), fc.string({ unit: 'grapheme' })), text => {
      const ids = tokenizer.encode(text)
      assert.equal(tokenizer.decode(ids), text.toWellFormed())
      assert.ok(ids.every(id => !tokenizer.isSpecial(id)))
    }),
    { numRuns: 3000 },
  )
})

test('text between special tokens is encoded as if it stood alone', () => {
  const names = ['<|start|>', '<|end|>', '<|reserved_201087|>']
  fc.assert(
    fc.property(fc.array(fc.oneof(mixedText, fc.constantFrom(...names)), { maxLength: 6 }), parts => {
      const text = parts.join('')
      const expected = text.split(/(<\|(?:start|end|reserved_201087)\|>)/).flatMap(part => {
        return names.includes(part) ? [tokenizer.specialId(part)!] : tokenizer.encode(part)
      })
      assert.deepEqual(tokenizer.encode(text, { allowedSpecial: 'all' }), expected)
    }),
  )
})

test('a list of ids may be any iterable', () => {
  const ids = tokenizer.encode('one two three')
  assert.equal(tokenizer.decode(new Set(ids)), 'one two three')
  assert.equal(tokenizer.decode(Uint32Array.from(ids)), 'one two three')
})
