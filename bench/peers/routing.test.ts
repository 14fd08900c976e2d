import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { openFolder } from '../../src/checkpoint/source.node.ts'
import { SpeedTest } from '../../src/cli/measure.ts'
import { openDevice } from '../../src/device/open.node.ts'
import { ReferenceDevice } from '../../src/device/reference.ts'
import type { Device, Ops } from '../../src/kernels/ops.ts'
import type { Chunk } from '../../src/model/transformer.ts'
import { openModel } from '../../src/open-engine.ts'
import { RoutingWatch } from './routing.ts'

const nano = fileURLToPath(new URL('../../models/nano', import.meta.url))
const open = async (device: Device) =>
  openModel({ folder: await openFolder(nano), device, availableMemory: 4e9, contextLength: 1024 })

/** Two sequences, one of them behind some context, one token each. */
async function twoTokens({ model, maxChunk }: Awaited<ReturnType<typeof open>>): Promise<Chunk[]> {
  const [a, b] = [model.newCache(maxChunk), model.newCache(maxChunk)]
  await model.forward([{ cache: a, tokens: [1000, 2000, 3000], start: 0, logits: 'none' }])
  return [
    { cache: a, tokens: [4000], start: 3, logits: 'last' },
    { cache: b, tokens: [5000], start: 0, logits: 'last' },
  ]
}

/** Distinct experts of each layer, written down by the reference device as it computes them. */
async function expected(): Promise<number[]> {
  const device = new ReferenceDevice()
  const opened = await open(device)
  const batch = await twoTokens(opened)
  const counts: number[] = []
  const begin = device.begin.bind(device)
  device.begin = () => {
    const ops: Ops = begin()
    const topK = ops.topK.bind(ops)
    ops.topK = (logits, k) => {
      const routing = topK(logits, k)
      const { data } = routing.experts as unknown as { data: ArrayLike<number> }
      counts.push(new Set(Array.from(data)).size)
      return routing
    }
    return ops
  }
  await opened.model.forward(batch)
  opened.model.close()
  return counts
}

for (const name of ['reference', 'cpu'] as const) {
  test(`the ${name} device tells which experts a batch chose, after and before it is run, and computes as ever`, async () => {
    const { device } = openDevice({ device: name === 'cpu' ? undefined : name, precision: 'exact' })
    const watch = new RoutingWatch(device)
    const opened = await open(watch.device)
    const batch = await twoTokens(opened)
    const logits = await opened.model.forward(batch)
    const counts = await watch.distinctExperts(opened.model, batch)
    assert.deepEqual(counts, await expected())
    assert.ok(counts.some(count => count > 4) && counts.every(count => count >= 4 && count <= 8), `${counts}`)
    for (const { cache, start } of batch) cache.rewind(start)
    assert.deepEqual(await watch.distinctExperts(opened.model, batch), counts)
    for (const { cache, start } of batch) cache.rewind(start)
    assert.deepEqual(await opened.model.forward(batch), logits)
    opened.model.close()
  })
}

test('a speed test gives each batch that it timed', async () => {
  const opened = await open(new ReferenceDevice())
  const batches: (readonly Chunk[])[] = []
  assert.ok((await new SpeedTest(opened.model, opened.maxChunk).decode(0, 2, async b => batches.push(b))) > 0)
  assert.ok(batches.length >= 4 && batches.every(batch => batch.length === 2 && batch[0].tokens.length === 1))
  opened.model.close()
})
