import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import {
  checkTensors,
  LocalEngine,
  loadWeights,
  openCheckpoint,
  openFolder,
  ReferenceDevice,
  readConfig,
  Sampler,
  Session,
  Transformer,
} from './index.ts'

test('what the door hands out is enough to open a model, hold a session, sample, and run an engine', async () => {
  const folder = await openFolder(join(import.meta.dirname, '../../test/golden/logits/plain/original'))
  const checkpoint = await openCheckpoint(folder)
  const config = readConfig(checkpoint.config, checkpoint.configPath)
  checkTensors(checkpoint, config)
  const device = new ReferenceDevice()
  const model = new Transformer(device, config, await loadWeights(device, checkpoint, config))
  await checkpoint.close()

  const byHand: number[] = []
  {
    using session = new Session(model, { contextLength: 100, maxChunk: 16 })
    const sampler = new Sampler({ seed: 5 }, config.vocabSize)
    await session.sync([1, 2, 3])
    while (byHand.length < 6) {
      const { token } = sampler.sample(session.logits!)
      byHand.push(token)
      await session.step(token)
    }
  }

  const engine = new LocalEngine(model, { model: 'plain', device: device.name, contextLength: 100 })
  const byEngine: number[] = []
  for await (const event of engine.generate({
    tokens: [1, 2, 3],
    maxTokens: 6,
    sampling: { seed: 5 },
    stopTokens: [],
  })) {
    if (event.type === 'token') byEngine.push(event.token)
  }
  await engine.close()
  assert.deepEqual(byEngine, byHand)
})
