import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { load, type Message, type Model } from '../../src/index.ts'
import { greedyAnswer, prompts } from './prompts.ts'

/** An answer of each kind; the long tier has them all. */
const chosen = ['what-is-mxfp4', 'greeting-zh', 'skill-copy', 'skill-call']

describe('gpt-oss-nano answers as its card says, token for token', () => {
  it('chosen prompts', async t => {
    await using model = await load('nano')
    for (const prompt of prompts.filter(({ name }) => chosen.includes(name))) {
      await t.test(prompt.name, async () => assert.deepEqual(await greedyAnswer(model, prompt), prompt.answerIds))
    }
  })

  it('a second turn reads only what the first did not', async () => {
    await using model = await load('nano')
    const conversation: Message[] = [{ role: 'user', content: 'Remember the number 1038.' }]
    const first = await turn(model, conversation)
    conversation.push(...first.messages, { role: 'user', content: 'What is my number?' })
    const second = await turn(model, conversation)
    assert.equal(second.messages.at(-1)?.content, 'Your number is 1038.')
    // All of the first prompt and the <|channel|> behind it: the thought itself left when the answer was given.
    assert.equal(second.usage.cachedTokens, first.usage.promptTokens + 1)
  })
})

async function turn(model: Model, conversation: readonly Message[]) {
  for await (const event of model.respond(conversation, { date: '2026-05-01' })) if (event.type === 'end') return event
  throw new Error('the turn did not end')
}
