import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { TurnEvent } from '../../src/agent/turn.ts'
import type { Message } from '../../src/harmony/message.ts'
import { load, type Model } from '../../src/index.ts'

const folder = mkdtempSync(join(tmpdir(), 'tutti-sessions-'))
after(() => rmSync(folder, { recursive: true, force: true }))
const path = join(folder, 'chat.session')
const instructions = { date: '2026-05-01', developer: 'Answer in one sentence.' }
const asked: Message = { role: 'user', content: 'Who made you?' }

/** One turn: what was cached of its prompt, what ran, and what it said. */
async function turn(model: Model, messages: readonly Message[], options = {}) {
  const events: TurnEvent[] = []
  for await (const event of model.respond(messages, options)) events.push(event)
  const [prefill, end] = [events.find(event => event.type === 'prefill'), events.at(-1)]
  assert.ok(prefill?.type === 'prefill' && end?.type === 'end')
  return { cached: prefill.cached, total: prefill.total, messages: end.messages }
}

test('a conversation with nano goes on in another worker where it was saved, and runs what is new alone', async () => {
  const question: Message = { role: 'user', content: 'What is MXFP4?' }
  const first = await load('nano')
  const { messages } = await turn(first, [question], instructions)
  const told = [question, ...messages]
  const seen: number[] = []
  const onProgress = (done: number, total: number) => seen.push(done / total)
  const saved = await first.saveSession(path, told, { ...instructions, onProgress })
  assert.deepEqual([saved.bytes, seen.at(-1)], [statSync(path).size, 1])
  const expected = await turn(first, [...told, asked], instructions)
  await first.close()

  await using second = await load('nano')
  const restored = await second.restoreSession(path)
  assert.equal(restored.refused, undefined)
  assert.equal(restored.tokens, saved.tokens)
  assert.deepEqual(restored.messages.slice(-told.length), JSON.parse(JSON.stringify(told)))
  const next = await turn(second, [...restored.messages, asked])
  assert.deepEqual([next.cached, next.messages], [saved.tokens, expected.messages])
  assert.ok(next.total < 20, `${next.total} tokens ran`)
})

test('with keys and values of another kind it goes on all the same, and runs again', async () => {
  await using model = await load('nano', { cache: 'q8' })
  const { refused, messages, tokens } = await model.restoreSession(path)
  assert.match(
    refused!,
    /holds keys and values of another kind .*bf16.* than this device keeps .*q8.*tokens have to run again/,
  )
  const next = await turn(model, [...messages, asked])
  assert.deepEqual([next.cached, next.total > tokens], [0, true])
})
