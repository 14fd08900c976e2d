import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { type ParseCase, readOutcome, readStates, withoutWording } from '../../test/oracle/harmony-parse-cases.ts'
import { HarmonyError } from '../base/errors.ts'
import { loadTokenizer } from '../tokenizer/load.ts'
import { HarmonyParser } from './parser.ts'

const tokenizer = await loadTokenizer()
const golden = new URL('../../test/golden/harmony/parse.json', import.meta.url)
const { cases } = JSON.parse(readFileSync(golden, 'utf8')) as { cases: ParseCase[] }

test('strict and lenient mode read every token sequence as openai-harmony 0.0.8 does', () => {
  for (const { name, ids, role, strict, lenient } of cases) {
    const expected = { strict: withoutWording(strict), lenient: withoutWording(lenient === 'same' ? strict : lenient) }
    for (const mode of ['strict', 'lenient'] as const) {
      assert.deepEqual(readOutcome(tokenizer, ids, role, mode), expected[mode], `${name}, ${mode}`)
    }
  }
  assert.equal(cases.length, 473)
})

test('strict and lenient mode are in the same state as openai-harmony 0.0.8 after every token', () => {
  const streamed = cases.filter(({ stream }) => stream !== undefined)
  for (const { name, ids, role, stream, lenientStream = stream } of streamed) {
    assert.deepEqual(readStates(tokenizer, ids, role, 'strict'), stream, `${name}, strict`)
    assert.deepEqual(readStates(tokenizer, ids, role, 'lenient'), lenientStream, `${name}, lenient`)
  }
  assert.equal(streamed.length, 103)
})

test('strict mode names the token that it refuses, and its place', () => {
  const parser = new HarmonyParser(tokenizer, { mode: 'strict', role: null })
  assert.throws(
    () => parser.push(1),
    (error: unknown) => error instanceof HarmonyError && error.tokens[0] === 1 && /at token 0/.test(error.message),
  )
})
