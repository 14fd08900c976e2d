import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { LateDevice, randomModel, smallConfig } from '../engine/testing.ts'
import type { Ops } from '../kernels/ops.ts'
import type { Transformer } from './transformer.ts'

const tokens = [5, 1, 40, 7, 7, 23, 0, 12]
const logitsOf = async (model: Transformer, shouldStop?: () => boolean) => {
  const cache = model.newCache(8)
  const logits = await model.forward([{ cache, tokens, start: 0, logits: 'all' }], shouldStop)
  return { cache, logits }
}
const expected = (await logitsOf(await randomModel())).logits

/** A model whose ops take 5 ms each, half a second in all, and what they were. */
async function slowModel(onOp = (_: keyof Ops) => {}) {
  const ran: (keyof Ops)[] = []
  const device = new LateDevice(async op => {
    await sleep(5)
    onOp(op)
    ran.push(op)
  })
  return { ran, model: await randomModel(smallConfig, { device }) }
}

test('a device that runs the pass later gives the same, and the caches are taken over only then', async () => {
  const lengths: number[] = []
  const model = await randomModel(smallConfig, {
    device: new LateDevice(async () => lengths.push(cache.length, cache.layers[0].length)),
  })
  const cache = model.newCache(8)
  const logits = await model.forward([{ cache, tokens, start: 0, logits: 'all' }], () => false)
  assert.deepEqual(logits, expected)
  assert.ok(lengths.length > 0 && lengths.every(length => length === 0))
  assert.ok(cache.layers.every(layer => layer.length === 8))
})

test('without logits wanted the pass runs all the same', async () => {
  const model = await randomModel(smallConfig, { device: new LateDevice() })
  const cache = model.newCache(8)
  const none = await model.forward([{ cache, tokens: tokens.slice(0, 7), start: 0, logits: 'none' }])
  assert.deepEqual([none?.length, cache.length], [0, 7])
  const last = await model.forward([{ cache, tokens: tokens.slice(7), start: 7, logits: 'last' }])
  assert.deepEqual(last, expected?.slice(-smallConfig.vocabSize))
})

test('a stop is heard while the device has the whole pass, which is dropped and leaves the caches as they were', async () => {
  const { model, ran } = await slowModel()
  const rejections: unknown[] = []
  const onRejection = (reason: unknown) => rejections.push(reason)
  process.on('unhandledRejection', onRejection)
  let asked = 0
  const { cache, logits } = await logitsOf(model, () => asked++ > smallConfig.numHiddenLayers + 2)
  assert.equal(logits, undefined)
  assert.deepEqual([cache.length, ...cache.layers.map(layer => layer.length)], [0, 0, 0, 0, 0, 0])
  const { length } = ran
  assert.ok(length > 0 && length < 40, `${length} of 53 ran`) // asked after 20 ms and after 40
  await sleep(50)
  assert.ok(ran.length <= length + 1, 'at most what was running then')
  assert.equal(asked, smallConfig.numHiddenLayers + 4, 'nobody asks any more')
  process.off('unhandledRejection', onRejection)
  assert.deepEqual(rejections, [])
})

test('what fails on the device or while asking rejects, and the caches stay as they were', async () => {
  const lost = new Error('the device was lost')
  const { model } = await slowModel(op => {
    if (op === 'topK') throw lost
  })
  const cache = model.newCache(8)
  for (const logits of ['all', 'none'] as const) {
    await assert.rejects(
      model.forward([{ cache, tokens, start: 0, logits }], () => false),
      lost,
    )
  }
  let asked = 0
  const failing = () => {
    if (asked++ > smallConfig.numHiddenLayers) throw new Error('who asks?')
    return false
  }
  await assert.rejects(model.forward([{ cache, tokens, start: 0, logits: 'all' }], failing), /who asks/)
  assert.equal(cache.length, 0)
})
