import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { conversation } from '../../src/agent/conversation.ts'
import { LocalEngine } from '../../src/engine/local-engine.ts'
import type { Message } from '../../src/harmony/message.ts'
import { renderConversation } from '../../src/harmony/render.ts'
import { Model } from '../../src/index.ts'
import { loadTokenizer } from '../../src/tokenizer/load.ts'
import { openNano } from './teacher-forced.ts'

const transformer = await openNano()
const tokenizer = await loadTokenizer()

const instructions = { date: '2026-05-01', reasoning: 'low' } as const

/** Small chunks make small rings: they hold what is seen 8 tokens back, and no more. */
function open() {
  const info = { model: 'gpt-oss-nano', device: 'reference', contextLength: 2048 }
  const engine = new LocalEngine(transformer, { ...info, maxChunk: 8 })
  return { model: new Model(engine, tokenizer), engine }
}

/** One turn, or its first tokens, with their probabilities; `cached` prompt tokens were held, `ran` had to run. */
async function respond(model: Model, messages: readonly Message[], numTokens = Infinity) {
  const turn = { cached: 0, ran: 0, tokens: [] as number[], logprobs: [] as unknown[], messages: [] as Message[] }
  const options = { ...instructions, sampling: { temperature: 0, logprobs: 1 } }
  for await (const event of model.respond(messages, options)) {
    if (event.type === 'prefill') [turn.cached, turn.ran] = [event.cached, event.total]
    else if (event.type === 'end') turn.messages = event.messages
    else if (event.type === 'token' && turn.tokens.push(event.token)) {
      turn.logprobs.push(event.logprob, event.topLogprobs)
      if (turn.tokens.length === numTokens) break
    }
  }
  return turn
}

const told: Message[] = [
  { role: 'user', content: 'What is MXFP4?' },
  { role: 'assistant', channel: 'final', content: 'A format of numbers: 32 values of 4 bits share a scale of 8 bits.' },
  { role: 'user', content: 'Who are you?' },
]

test('a chat with nano forks for nothing: to go on without the analysis, and to answer again', async () => {
  const { model } = open()
  const { ran: promptLength, tokens, logprobs, messages } = await respond(model, told)
  assert.deepEqual(
    messages.map(({ channel }) => channel),
    ['analysis', 'final'],
  )
  // More than a ring back, and too far from the beginning for that to count.
  assert.ok(promptLength > 100 && promptLength + tokens.length > 127 + 8 + 8)

  const question: Message[] = [...told, ...messages, { role: 'user', content: 'And again?' }]
  const next = await respond(model, question, 5)
  const fresh = await respond(open().model, question, 5)
  assert.deepEqual([fresh.cached, next.cached], [0, promptLength + 1], 'up to the channel, which is another one')
  assert.equal(next.cached + next.ran, fresh.ran, 'nothing runs again')
  assert.deepEqual([next.tokens, next.logprobs], [fresh.tokens, fresh.logprobs], 'equal to the last bit')

  const again = await respond(model, told, 5)
  assert.deepEqual([again.cached, again.ran], [promptLength - 1, 1], 'the last token alone, for its logits')
  assert.deepEqual([again.tokens, again.logprobs], [tokens.slice(0, 5), logprobs.slice(0, 10)])
})

test('while nobody asks, the answer runs once more without its thoughts: the next question runs alone', async () => {
  const { model, engine } = open()
  const first = await respond(model, told)
  const history = renderConversation(tokenizer, conversation([...told, ...first.messages], instructions))
  // All of the prompt; then behind its first mark what the history has instead of thoughts.
  const expected = first.ran + history.length - (first.ran + 1)
  while (engine.counts.prefilled < expected) await sleep(5)
  const question: Message[] = [...told, ...first.messages, { role: 'user', content: 'And again?' }]
  const next = await respond(model, question, 5)
  assert.equal(next.cached, history.length)
  assert.equal(engine.counts.prefilled, expected + next.ran, 'the question, and no token more')
  const fresh = await respond(open().model, question, 5)
  assert.equal(next.cached + next.ran, fresh.ran)
  assert.deepEqual([next.tokens, next.logprobs], [fresh.tokens, fresh.logprobs], 'equal to the last bit')
})
