import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import {
  differenceOf,
  type ParseCase,
  readOutcome,
  readStates,
  withoutWording,
} from '../../test/oracle/harmony-parse-cases.ts'
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

/** The golden cases that total mode reads otherwise than strict mode: how many show each repair or intention. */
const DIFFERENCES: Record<string, number> = {
  none: 165,

  // Intended, and no repair.
  'no token is no error': 2,
  '<|endoftext|> ends a message': 1,
  'every message is the assistant’s': 1,
  'a single word after the channel is a content type, not a recipient': 6,

  // Repairs.
  'call-channel': 38,
  'call-without-recipient': 42,
  'channel-spelling': 14,
  'empty-header': 24,
  leftover: 22,
  'missing-channel': 61,
  'missing-end': 28,
  'missing-marker': 4,
  'missing-message': 45,
  'missing-role': 8,
  'missing-start': 25,
  'no-header': 36,
  'no-recipient': 16,
  'recipient-spelling': 15,
  'repeated-channel': 9,
  'stray-token': 47,
  'two-recipients': 7,
  'type-spelling': 30,
  'unknown-channel': 36,
  'unknown-id': 12,
  'word-order': 5,
  'wrong-role': 38,
}

test('what the default mode reads otherwise than strict mode is a reported repair or intended', () => {
  const found: Record<string, number> = {}
  for (const case_ of cases) {
    const difference = differenceOf(tokenizer, case_)
    const kinds = difference === 'none' ? [difference] : 'intended' in difference ? [difference.intended] : difference
    for (const kind of new Set(kinds)) found[kind] = (found[kind] ?? 0) + 1
  }
  assert.deepEqual(found, DIFFERENCES)
})
