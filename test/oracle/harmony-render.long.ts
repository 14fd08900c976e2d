import assert from 'node:assert/strict'
import { test } from 'node:test'
import { HarmonyError } from '../../src/base/errors.ts'
import { loadTokenizer } from '../../src/tokenizer/load.ts'
import { type ConversationCase, renderCall, type SchemaCase, schemaText } from '../harmony/golden.ts'
import { freshCases, skipReason } from './harmony-reference.ts'

const count = Number(process.env.TUTTI_ORACLE_COUNT ?? 20_000)
const seed = Number(process.env.TUTTI_ORACLE_SEED ?? 1)

test(`${count} fresh conversations are rendered as openai-harmony renders them, id by id`, {
  skip: skipReason,
}, async () => {
  const tokenizer = await loadTokenizer()
  const numChecked = { conversations: 0, calls: 0, refused: 0 }
  for await (const { name, messages, expected } of freshCases<ConversationCase>(tokenizer, 'conversation', {
    count,
    seed,
  })) {
    numChecked.conversations++
    for (const outcome of expected) {
      for (const call of outcome.calls) {
        numChecked.calls++
        if ('ids' in outcome) assert.deepEqual(renderCall(tokenizer, messages, call), outcome.ids, name)
        else {
          numChecked.refused++
          assert.throws(() => renderCall(tokenizer, messages, call), HarmonyError, name)
        }
      }
    }
  }
  console.log(JSON.stringify(numChecked))
  assert.equal(numChecked.conversations, count)
  assert.ok(numChecked.refused > count / 100, 'a draw without errors would not compare them')
})

test(`${count} fresh schemas are printed as openai-harmony prints them`, { skip: skipReason }, async () => {
  const tokenizer = await loadTokenizer()
  let numChecked = 0
  for await (const schema of freshCases<SchemaCase>(tokenizer, 'schema', { count, seed })) {
    numChecked++
    assert.equal(schemaText(tokenizer, schema, { mode: 'strict' }), schema.text, schema.name)
  }
  assert.equal(numChecked, count)
})
