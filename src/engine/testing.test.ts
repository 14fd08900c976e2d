import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { DeviceError } from '../base/errors.ts'
import { collect, randomCheckpoint, ScriptedEngine, smallConfig } from './testing.ts'

test('a scripted engine answers with its script and keeps the requests', async () => {
  const engine = new ScriptedEngine([[5, 6, 200002, 7], [8]])
  const events = await collect(engine.generate({ tokens: [1, 2] }))
  const usage = { promptTokens: 2, cachedTokens: 0, completionTokens: 3 }
  assert.deepEqual(events, [
    { type: 'prefill', cached: 0, done: 0, total: 2 },
    { type: 'prefill', cached: 0, done: 2, total: 2 },
    ...[5, 6, 200002].map(token => ({ type: 'token', token })),
    { type: 'end', reason: 'stop', usage },
  ])
  const [, , , last] = await collect(engine.generate({ tokens: [3] }))
  assert.deepEqual(last, {
    type: 'end',
    reason: 'length',
    usage: { promptTokens: 1, cachedTokens: 0, completionTokens: 1 },
  })
  assert.deepEqual(engine.requests, [{ tokens: [1, 2] }, { tokens: [3] }])
})

test('a scripted engine keeps the limits of a request, fails when told to and can be cancelled', async () => {
  const engine = new ScriptedEngine([{ tokens: [1, 2, 3], error: new DeviceError('lost'), delayMs: 1 }])
  assert.equal((await collect(engine.generate({ tokens: [1], maxTokens: 2 }))).at(-1)?.type, 'end')
  await assert.rejects(collect(engine.generate({ tokens: [1] })), { name: 'DeviceError', message: 'lost' })
  await assert.rejects(collect(engine.generate({ tokens: [] })), { name: 'RequestError' })
  const controller = new AbortController()
  const pending = collect(engine.generate({ tokens: [1] }, { signal: controller.signal }))
  await sleep(1)
  controller.abort()
  await assert.rejects(pending, { name: 'AbortError' })
})

test('a random checkpoint is the same for the same seed', async () => {
  const bytes = async (seed: number) => {
    const { tensors } = randomCheckpoint(smallConfig, seed)
    return Buffer.concat(await Promise.all([...tensors.values()].map(tensor => tensor.read())))
  }
  assert.deepEqual(await bytes(1), await bytes(1))
  assert.notDeepEqual(await bytes(1), await bytes(2))
})
