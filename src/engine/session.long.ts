import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../base/random.ts'
import { Session } from './session.ts'
import { randomModel, smallConfig } from './testing.ts'

/** gpt-oss's own window, two windowed layers and a full one: windows that begin empty are exact 254 tokens later. */
const config = { ...smallConfig, numHiddenLayers: 3, slidingWindow: 128, maxPositionEmbeddings: 4096 }
const reach = 2 * 127
const contextLength = 1200

test('windows of 128: 150 sessions of random edits up to six windows back, marks, stops and steps, against fresh sessions', async t => {
  const model = await randomModel(config)
  let syncs = 0
  let stops = 0
  let spared = 0
  for (let seed = 0; seed < 150; seed++) {
    const random = seededRandom(seed)
    const below = (n: number) => Math.floor(random() * n)
    const some = (count: number) => Array.from({ length: count }, () => below(config.vocabSize))
    const maxChunk = [1, 7, 32, 64, 200][seed % 5]
    using session = new Session(model, { contextLength, maxChunk })
    await session.sync(some(300 + below(500)), undefined, [below(400), below(800)])
    for (let i = 0; i < 6; i++) {
      const held = session.tokens.length
      const back = Math.min(held, random() < 0.3 ? below(5) : below(6 * 128))
      const tokens = [...session.tokens.slice(0, held - back), ...some(1 + below(60))].slice(0, contextLength)
      let left = random() < 0.4 ? below(40) : Infinity
      const marks = [below(tokens.length), tokens.length - below(40), tokens.length + 1].slice(below(4))
      const { reused, ran, finished } = await session.sync(tokens, () => left-- <= 0, marks)
      const most = Math.min(reused, reach) + tokens.length - reused
      assert.ok(ran <= most, `seed ${seed}: ${ran} ran`)
      if (finished) spared += most - ran
      syncs++
      if (!finished) stops++
      if (random() < 0.3) await session.step(below(config.vocabSize))
      if (!session.logits) continue
      using fresh = new Session(model, { contextLength, maxChunk: 64 })
      await fresh.sync(session.tokens)
      assert.deepEqual(session.logits, fresh.logits, `seed ${seed}, edit ${i}`)
    }
  }
  t.diagnostic(`${syncs} syncs, ${stops} of them stopped; rings and marks spared ${spared} tokens`)
  assert.ok(stops > 100)
})
