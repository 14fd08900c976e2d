import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { load } from '../../src/index.ts'
import { greedyAnswer, prompts } from './prompts.ts'

/** An answer of each kind; the long tier has them all. */
const chosen = ['what-is-mxfp4', 'greeting-zh', 'upper-case', 'skill-copy', 'skill-call', 'skill-json']

describe('gpt-oss-nano answers as its card says, token for token', () => {
  it('chosen prompts', async t => {
    await using model = await load('nano')
    for (const prompt of prompts.filter(({ name }) => chosen.includes(name))) {
      await t.test(prompt.name, async () => assert.deepEqual(await greedyAnswer(model, prompt), prompt.answerIds))
    }
  })
})
