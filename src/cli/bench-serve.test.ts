import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ScriptedEngine } from '../engine/testing.ts'
import { serve, table } from './bench-serve.ts'

const load = { users: 3, promptTokens: 20, answerTokens: 10, seconds: 0.4 }
const never = new AbortController().signal

test('users ask again as soon as they are answered, until the time is over', async () => {
  const engine = new ScriptedEngine([{ tokens: Array.from({ length: 20 }, (_, i) => i), delayMs: 1 }], {
    vocabSize: 50,
  })
  const served = await serve(engine, load, never)
  assert.equal(served.users, 3)
  assert.ok(served.requests >= 3, `${served.requests} answers`)
  assert.ok(served.requests <= engine.requests.length && engine.requests.length <= served.requests + 3)
  assert.ok(served.tokensPerSecond > 0 && served.firstToken && served.gap)
  assert.deepEqual([...new Set(engine.requests.map(({ owner }) => owner))].sort(), ['user 0', 'user 1', 'user 2'])
  for (const { tokens, maxTokens = 0 } of engine.requests) {
    assert.ok(tokens.length >= 10 && tokens.length <= 30 && Math.max(...tokens) < 50)
    assert.ok(maxTokens >= 5 && maxTokens <= 15)
  }
})

test('what goes wrong and what interrupts ends the load', async () => {
  const failing = new ScriptedEngine([{ tokens: [1], error: new RangeError('lost') }], { vocabSize: 50 })
  await assert.rejects(serve(failing, load, never), { message: 'lost' })
  const engine = new ScriptedEngine([{ tokens: [1, 2], delayMs: 1 }], { vocabSize: 50 })
  await assert.rejects(serve(engine, load, AbortSignal.timeout(30)), { name: 'TimeoutError' })
})

test('a table draws what all users got together to scale', () => {
  const rows = [
    { users: 1, requests: 4, tokensPerSecond: 5, firstToken: [400, 1234], gap: [100, 110] },
    { users: 8, requests: 0, tokensPerSecond: 20, firstToken: undefined, gap: undefined },
  ] as const
  assert.equal(
    table(rows),
    [
      'users  tokens/s                           first token       p99   between       p99   answers',
      '    1      5.00 ██████                      400 ms    1.23 s    100 ms    110 ms         4',
      '    8      20.0 ████████████████████████         –         –         –         –         0',
    ].join('\n'),
  )
})
