import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { openFolder } from '../checkpoint/source.node.ts'
import type { Folder } from '../checkpoint/source.ts'
import { ReferenceDevice } from '../device/reference.ts'
import { smallConfig } from '../engine/testing.ts'
import { openEngine } from '../open-engine.ts'
import type { ModelConfig } from './config.ts'
import { chooseContext, type MemoryOptions, planMemory } from './memory.ts'

const root = join(import.meta.dirname, '../..')
const mib = 2 ** 20

const gptOss20b: ModelConfig = {
  ...smallConfig,
  ...{ numHiddenLayers: 24, numExperts: 32, expertsPerToken: 4, vocabSize: 201_088, hiddenSize: 2880 },
  ...{ intermediateSize: 2880, headDim: 64, numAttentionHeads: 64, numKeyValueHeads: 8, slidingWindow: 128 },
  maxPositionEmbeddings: 131_072,
}
const device = new ReferenceDevice()
const options: MemoryOptions = { device, weights: { own: 13_761_264_768, mapped: 0 }, maxChunk: 64, maxSessions: 8 }

test('the plan of gpt-oss-20b is what its layers hold', () => {
  const { weights, cache, scratch, garbage, total, mapped } = planMemory(gptOss20b, 1000, options)
  assert.equal(weights, options.weights.own)
  const token = 2 * 8 * 64 * 4 // key and value
  const full = 12 * token * (1088 + 8 * 64) * (17 / 16) // a chunk more, and what each session has begun, in steps of 64
  const windows = 12 * token * (9 * (127 + 64 + 1) + (8 * 4 + 1) * (127 + 2))
  assert.equal(cache, full + windows)
  assert.ok(scratch > 64 * mib && scratch < 128 * mib)
  assert.equal(total, weights + cache + scratch + garbage)
  assert.equal(mapped, 0)
})

test('the context is the longest that fits, up to the model’s own', () => {
  const least = planMemory(gptOss20b, 1024, options).total
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 12e9 }), beyond => {
      const available = least + beyond
      const { contextLength, plan } = chooseContext(gptOss20b, available, options)
      assert.ok(plan.total <= available)
      assert.deepEqual(plan, planMemory(gptOss20b, contextLength, options))
      if (contextLength < 131_072) assert.ok(planMemory(gptOss20b, contextLength + 1, options).total > available)
    }),
  )
  assert.equal(chooseContext(gptOss20b, 2 ** 40, options).contextLength, 131_072)
})

const gib = 2 ** 30
const refusals: [name: string, available: number, wanted: number | undefined, expected: object][] = [
  [
    'weights alone that do not fit',
    8 * gib,
    undefined,
    { name: 'DeviceError', message: /needs 13\.\d GiB \(weights 12\.8 GiB, .* and 8\.0 GiB are free: close other/ },
  ],
  [
    'a wanted context that does not fit',
    16 * gib,
    131_072,
    { name: 'DeviceError', message: /cache for 131072 tokens 6\.7 GiB.*16\.0 GiB are free.*ask for a shorter context/ },
  ],
  [
    'memory for so few tokens that no conversation has room',
    planMemory(gptOss20b, 900, options).total,
    undefined,
    { name: 'DeviceError', message: /cache for 1024 tokens/ },
  ],
  [
    'a context longer than the model’s',
    2 ** 40,
    131_073,
    { name: 'RequestError', param: 'contextLength', message: /131073 .* 1 to 131072/ },
  ],
  ['no context', 2 ** 40, 0, { name: 'RequestError', param: 'contextLength' }],
  ['half a token', 2 ** 40, 0.5, { name: 'RequestError', param: 'contextLength' }],
]
for (const [name, available, wanted, expected] of refusals) {
  test(`refused: ${name}`, () => {
    assert.throws(() => chooseContext(gptOss20b, available, options, wanted), expected)
  })
}

test('a context that nobody asked for leaves room for what is mapped, unless it would be short', () => {
  const weights = { own: 1.6e9, mapped: 13e9 }
  const mapped = { ...options, weights }
  const { contextLength, plan } = chooseContext(gptOss20b, 18e9, mapped)
  assert.ok(contextLength > 8192 && contextLength < 131_072, `${contextLength}`)
  assert.ok(plan.total + weights.mapped <= 18e9)
  assert.equal(chooseContext(gptOss20b, 12e9, mapped).contextLength, 8192)
  assert.equal(chooseContext(gptOss20b, 18e9, mapped, 131_072).contextLength, 131_072)
})

test('a short context may be asked for, and a model may have a short one', () => {
  const available = planMemory(gptOss20b, 1000, options).total
  assert.equal(chooseContext(gptOss20b, available, options, 500).contextLength, 500)
  assert.equal(chooseContext({ ...gptOss20b, maxPositionEmbeddings: 256 }, available, options).contextLength, 256)
})

test('a model that does not fit is refused before a weight is read', async () => {
  const folder = await openFolder(join(root, 'models/nano'))
  let read = 0
  const counting: Folder = {
    path: folder.path,
    list: () => folder.list(),
    size: name => folder.size(name),
    read: (name, begin, end) => {
      read += end - begin
      return folder.read(name, begin, end)
    },
    close: () => folder.close(),
  }
  await assert.rejects(openEngine({ folder: counting, device: new ReferenceDevice(), availableMemory: 100 * mib }), {
    name: 'DeviceError',
  })
  assert.ok(read < 100_000, `${read} bytes were read`) // headers and config.json
})
