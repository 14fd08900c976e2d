import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { load } from '../../src/index.ts'

interface Prompt {
  name: string
  promptIds: number[]
  answer: string
  answerIds: number[]
}
const file = join(import.meta.dirname, '../../models/nano/prompts.json')
const prompts: Prompt[] = JSON.parse(readFileSync(file, 'utf8'))

describe('gpt-oss-nano answers as its card says, token for token', async () => {
  const model = await load('nano')
  after(() => model.close())

  for (const { name, promptIds, answer, answerIds } of prompts) {
    it(name, async () => {
      const generated: number[] = []
      for await (const event of model.generate(promptIds, {
        sampling: { temperature: 0 },
        maxTokens: answerIds.length,
      })) {
        if (event.type === 'token') generated.push(event.token)
      }
      assert.deepEqual(generated, answerIds)
      assert.equal(model.tokenizer.decode(generated), answer)
    })
  }
})
