import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../../src/base/random.ts'
import { loadTokenizer } from '../../src/tokenizer/load.ts'
import { freshCases, skipReason, tiktokenIds } from './tokenizer-reference.ts'
import { createTexts } from './tokenizer-texts.ts'

const count = Number(process.env.TUTTI_ORACLE_COUNT ?? 1_000_000)
const seed = Number(process.env.TUTTI_ORACLE_SEED ?? 1)

test(`the ids of ${count} random texts are tiktoken's`, { skip: skipReason }, async () => {
  const tokenizer = await loadTokenizer()
  const texts = createTexts(tokenizer, seededRandom(seed))
  function* batches(size: number): Generator<string[]> {
    for (let done = 0; done < count; done += size)
      yield Array.from({ length: Math.min(size, count - done) }, (_, at) => texts[(done + at) % texts.length].draw())
  }
  let numTokens = 0
  let numDifferences = 0
  let numTexts = 0
  for await (const [text, ids] of tiktokenIds(batches(1000))) {
    const ours = tokenizer.encode(text)
    if (ours.length !== ids.length || ours.some((id, at) => id !== ids[at])) {
      if (numDifferences++ < 20) console.error(`${JSON.stringify(text)}\nours:   ${ours}\ntheirs: ${ids}`)
    }
    numTexts++
    numTokens += ids.length
  }
  console.log(JSON.stringify({ numTexts, numTokens, numDifferences, kinds: texts.length, seed }))
  assert.equal(numTexts, count)
  assert.equal(numDifferences, 0)
})

const numFresh = Math.ceil(count / 4)

test(`${numFresh} fresh cases of the goldens' script are openai-harmony's`, { skip: skipReason }, async () => {
  const tokenizer = await loadTokenizer()
  let numCases = 0
  for await (const fresh of freshCases(numFresh, seed)) {
    numCases++
    if (!('hex' in fresh)) assert.deepEqual(tokenizer.encode(fresh.text!), fresh.ids, JSON.stringify(fresh.text))
    else {
      assert.equal(Buffer.from(tokenizer.decodeBytes(fresh.ids)).toString('hex'), fresh.hex, `${fresh.ids}`)
      assert.equal(tokenizer.decode(fresh.ids), fresh.text, `${fresh.ids}`)
    }
  }
  console.log(JSON.stringify({ numCases, seed }))
  assert.equal(numCases, numFresh)
})
