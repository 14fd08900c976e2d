import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CpuDevice, type CpuOptions } from '../device/cpu.node.ts'
import { loadNative } from '../device/native.node.ts'
import { randomModel, smallConfig } from '../engine/testing.ts'

const native = loadNative()
const skip = typeof native === 'string' ? `no native kernels: ${native}` : false
const cpu = (options: CpuOptions) => new CpuDevice(native as Exclude<typeof native, string>, options)

/** So large that a chunk takes a hundred times what a token takes. */
const config = {
  ...{ ...smallConfig, hiddenSize: 256, intermediateSize: 256, headDim: 64, vocabSize: 500 },
  ...{ numAttentionHeads: 4, slidingWindow: 130, maxPositionEmbeddings: 8192 },
}
const some = (count: number, seed: number) => Array.from({ length: count }, (_, i) => (i * 7919 + seed) % 500)

for (const options of [
  { precision: 'fast', threads: 1 },
  { precision: 'fast', threads: 2 },
  { precision: 'exact', threads: 2, cache: 'q8' },
  { precision: 'fast', threads: 3, cache: 'q8' },
] as const) {
  test(`a prefill and the decodes that interrupt it give what they give alone, bit for bit (${JSON.stringify(options)})`, {
    skip,
  }, async t => {
    const model = await randomModel(config, { device: cpu(options) })
    const [prompt, chunk, beside] = [some(70, 1), some(500, 2), some(20, 3)]
    /** Two sequences: one of `prompt` takes a chunk while the other runs one token after the other. */
    const run = async (urgent: boolean) => {
      const [prefilled, decoded] = [model.newCache(512), model.newCache(512)]
      await model.forward([{ cache: prefilled, tokens: prompt, start: 0, logits: 'none' }])
      await model.forward([{ cache: decoded, tokens: prompt, start: 0, logits: 'none' }])
      let isOver = false
      const prefill = model.forward([{ cache: prefilled, tokens: chunk, start: 70, logits: 'all' }])
      prefill.then(() => (isOver = true))
      if (!urgent) await prefill
      const decodes: Float32Array[] = []
      let numInterrupting = 0
      for (const [i, token] of beside.entries()) {
        const batch = [{ cache: decoded, tokens: [token], start: 70 + i, logits: 'last' as const }]
        decodes.push((await model.forward(batch, undefined, { urgent }))!)
        if (!isOver) numInterrupting++
      }
      const last = [{ cache: prefilled, tokens: [5], start: 570, logits: 'last' as const }]
      const results = { prefill: await prefill, decodes, after: await model.forward(last) }
      prefilled.dispose()
      decoded.dispose()
      return { results, numInterrupting }
    }
    const alone = await run(false)
    const together = await run(true)
    t.diagnostic(`${together.numInterrupting} of ${beside.length} decodes ended before the prefill`)
    assert.deepEqual(together.results, alone.results)
    assert.equal(alone.numInterrupting, 0)
    assert.ok(together.numInterrupting > 0)
    model.close()
  })
}

test('an urgent pass over a cache that an abandoned one writes comes behind it, and gives the right thing', {
  skip,
}, async () => {
  const model = await randomModel(config, { device: cpu({ threads: 2 }) })
  const next = { tokens: [7], start: 70, logits: 'last' as const }
  const caches = [model.newCache(512), model.newCache(512)]
  for (const cache of caches) await model.forward([{ cache, tokens: some(70, 1), start: 0, logits: 'none' }])
  const [cache, fresh] = caches
  const expected = await model.forward([{ cache: fresh, ...next }])
  const long = [{ cache, tokens: some(500, 2), start: 70, logits: 'none' as const }]
  let asked = 0
  const abandoned = await model.forward(long, () => asked++ > config.numHiddenLayers) // with the pass under way
  assert.equal(abandoned, undefined)
  assert.deepEqual(await model.forward([{ cache, ...next }], undefined, { urgent: true }), expected)
  model.close()
})
