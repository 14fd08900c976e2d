import assert from 'node:assert/strict'
import { test } from 'node:test'
import { loadTokenizer } from '../../src/tokenizer/load.ts'
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts'
import { differenceOf, type ParseCase, readOutcome, readStates, withoutWording } from './harmony-parse-cases.ts'
import { freshCases, skipReason } from './harmony-reference.ts'

const count = Number(process.env.TUTTI_ORACLE_COUNT ?? 50_000)
const seed = Number(process.env.TUTTI_ORACLE_SEED ?? 1)

test(`${count} fresh token sequences are read as openai-harmony reads them, strict and lenient, state by state`, {
  skip: skipReason,
}, async () => {
  const tokenizer = await loadTokenizer()
  const numChecked = { sequences: 0, streamed: 0, refused: 0 }
  for await (const case_ of freshCases<ParseCase>(tokenizer, 'parse', { count, seed })) {
    compare(tokenizer, case_)
    numChecked.sequences++
    if (case_.stream !== undefined) numChecked.streamed++
    if (!('messages' in case_.strict)) numChecked.refused++
  }
  assert.equal(numChecked.sequences, count)
  assert.ok(numChecked.streamed > count / 10 && numChecked.refused > count / 10, JSON.stringify(numChecked))
})

function compare(tokenizer: Tokenizer, case_: ParseCase): void {
  const { name, ids, role, strict, lenient, stream, lenientStream } = case_
  const ofLenient = lenient === 'same' ? strict : lenient
  assert.deepEqual(readOutcome(tokenizer, ids, role, 'strict'), withoutWording(strict), `${name}, strict`)
  assert.deepEqual(readOutcome(tokenizer, ids, role, 'lenient'), withoutWording(ofLenient), `${name}, lenient`)
  // Where total mode differs, it says so.
  assert.doesNotThrow(() => differenceOf(tokenizer, case_), name)
  if (stream === undefined) return
  assert.deepEqual(readStates(tokenizer, ids, role, 'strict'), stream, `${name}, strict, streamed`)
  assert.deepEqual(readStates(tokenizer, ids, role, 'lenient'), lenientStream ?? stream, `${name}, lenient, streamed`)
}
