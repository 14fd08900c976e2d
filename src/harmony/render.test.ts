import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { conversationCases, readGolden, renderCall, schemaCases, schemaText } from '../../test/harmony/golden.ts'
import { HarmonyError } from '../base/errors.ts'
import { loadTokenizer } from '../tokenizer/load.ts'
import { defaultSystemMessage } from './messages.ts'
import * as tokens from './tokens.ts'

const tokenizer = await loadTokenizer()

describe('strict rendering of conversations is that of openai-harmony, id by id', () => {
  const cases = conversationCases()
  test('all 74 goldens are there', () => assert.equal(cases.length, 74))
  for (const { name, what, messages, expected } of cases) {
    test(`${name}: ${what}`, () => {
      for (const outcome of expected) {
        for (const call of outcome.calls) {
          if ('error' in outcome) assert.throws(() => renderCall(tokenizer, messages, call), HarmonyError)
          else {
            const ids = renderCall(tokenizer, messages, call)
            assert.equal(tokenizer.decode(ids), outcome.text)
            assert.deepEqual(ids, outcome.ids)
          }
        }
      }
    })
  }
})

/** The reference's JSON reader refuses these; a prompt can show them. */
const readable = new Set(['lone-surrogate'])

describe('strict rendering of schemas is that of openai-harmony', () => {
  const cases = schemaCases()
  test('all 375 goldens are there', () => assert.equal(cases.length, 375))
  for (const schema of cases) {
    if (readable.has(schema.name)) continue
    test(`${schema.group}: ${schema.name}`, () => {
      if (schema.error === undefined) assert.equal(schemaText(tokenizer, schema, { mode: 'strict' }), schema.text)
      else assert.throws(() => schemaText(tokenizer, schema, { mode: 'strict' }), /JSON/)
    })
  }
})

test('control tokens, stop tokens and the default system message are those of openai-harmony', () => {
  const golden = readGolden<{
    stopTokens: number[]
    stopTokensForAssistantActions: number[]
    namedTokens: Record<string, number>
    defaultSystem: object
  }>('stop-tokens.json')
  const ascending = (ids: readonly number[]) => [...ids].sort((a, b) => a - b)
  assert.deepEqual(ascending(tokens.STOP_TOKENS), golden.stopTokens)
  assert.deepEqual(ascending(tokens.STOP_TOKENS_FOR_ASSISTANT_ACTIONS), golden.stopTokensForAssistantActions)
  assert.deepEqual(defaultSystemMessage().content, [{ type: 'system', ...golden.defaultSystem }])
  const ours: Record<string, number> = {
    '<|startoftext|>': tokens.START_OF_TEXT,
    '<|endoftext|>': tokens.END_OF_TEXT,
    '<|return|>': tokens.RETURN,
    '<|constrain|>': tokens.CONSTRAIN,
    '<|channel|>': tokens.CHANNEL,
    '<|start|>': tokens.START,
    '<|end|>': tokens.END,
    '<|message|>': tokens.MESSAGE,
    '<|call|>': tokens.CALL,
  }
  assert.deepEqual(ours, golden.namedTokens)
  for (const [name, id] of Object.entries(ours)) assert.equal(tokenizer.specialId(name), id)
})
