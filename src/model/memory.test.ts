import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { openFolder } from '../checkpoint/source.node.ts'
import type { Folder } from '../checkpoint/source.ts'
import { ReferenceDevice } from '../device/reference.ts'
import { smallConfig } from '../engine/testing.ts'
import { openEngine } from '../open-engine.ts'
import type { ModelConfig } from './config.ts'
import { chooseContext, type MemoryOptions, type MemoryPlan, planMemory } from './memory.ts'

const root = join(import.meta.dirname, '../..')
const mib = 2 ** 20

const gptOss20b: ModelConfig = {
  ...smallConfig,
  ...{ numHiddenLayers: 24, numExperts: 32, expertsPerToken: 4, vocabSize: 201_088, hiddenSize: 2880 },
  ...{ intermediateSize: 2880, headDim: 64, numAttentionHeads: 64, numKeyValueHeads: 8, slidingWindow: 128 },
  maxPositionEmbeddings: 131_072,
}
const options: MemoryOptions = { weightBytes: 13_761_264_768, maxChunk: 64, elementBytes: 4, numSessions: 9 }

test('the plan of gpt-oss-20b is what its layers hold', () => {
  const { weights, cache, scratch, total } = planMemory(gptOss20b, 1000, options)
  assert.equal(weights, options.weightBytes)
  const key = 8 * 64 * 4
  const full = 12 * 2 * key * 1000 * (17 / 16)
  const windows = 9 * 12 * 2 * key * (127 + 64 + 4 * (128 + 64))
  assert.equal(cache, full + windows)
  assert.ok(scratch > 64 * mib && scratch < 128 * mib)
  assert.equal(total, weights + cache + scratch)
})

test('the context is the longest that fits, up to the model’s own', () => {
  const fixed = planMemory(gptOss20b, 0, options).total
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 12e9 }), beyond => {
      const available = fixed + 1024 * 60_000 + beyond
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
    { name: 'DeviceError', message: /cache for 131072 tokens 6\.8 GiB.*16\.0 GiB are free.*ask for a shorter context/ },
  ],
  [
    'memory for so few tokens that no conversation has room',
    planMemory(gptOss20b, 1000, options).total,
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

interface Measured {
  /** Bytes outside the heap: once loaded, with the context full, and the most that there ever were. */
  loaded: number
  full: number
  most: number
  plan: MemoryPlan
}

/** Loads a model in a process of its own, fills its context and takes all the snapshots that it may. */
function measure(path: string, contextLength: number): Measured {
  const program = `
    import { setTimeout } from 'node:timers/promises'
    import { openCheckpoint } from './src/checkpoint/checkpoint.ts'
    import { openFolder } from './src/checkpoint/source.node.ts'
    import { ReferenceDevice } from './src/device/reference.ts'
    import { readConfig } from './src/model/config.ts'
    import { planMemory } from './src/model/memory.ts'
    import { openEngine } from './src/open-engine.ts'
    const path = ${JSON.stringify(path)}, contextLength = ${contextLength}
    const { config, configPath, byteLength: weightBytes, close } = await openCheckpoint(await openFolder(path))
    await close()
    const options = { weightBytes, maxChunk: 64, elementBytes: 4, numSessions: 1 }
    const plan = planMemory(readConfig(config, configPath), contextLength, options)
    const used = () => process.memoryUsage().arrayBuffers
    const settled = async () => {
      for (let i = 0; i < 4; i++) { gc(); await setTimeout(20) } // arrays are freed by another thread
      return used()
    }
    const before = await settled()
    let most = 0
    const look = () => most = Math.max(most, used() - before)
    const folder = await openFolder(path)
    const device = new ReferenceDevice()
    const engine = await openEngine({ folder, device, contextLength, availableMemory: 2 ** 40, onProgress: look })
    const loaded = await settled() - before
    const tokens = Array.from({ length: contextLength }, (_, i) => i % 40)
    const marks = [1, 2, 3, 4].map(n => n * contextLength / 5)
    for await (const event of engine.generate({ tokens, marks, session: 'a' })) look()
    const full = await settled() - before
    await engine.close()
    console.log(JSON.stringify({ loaded, full, most, plan }))
  `
  const args = ['--conditions=tutti-source', '--expose-gc', '--input-type=module', '-e', program]
  const { stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8' })
  if (!stdout) throw new Error(stderr)
  return JSON.parse(stdout)
}

for (const [path, contextLength] of [
  ['models/nano', 500],
  ['test/golden/logits/wide/original', 2000],
] as const) {
  test(`the plan of ${path} is what it takes, measured`, t => {
    const { loaded, full, most, plan } = measure(path, contextLength)
    const { weights, cache, scratch, total } = plan
    t.diagnostic(JSON.stringify({ weights, loaded, cache, held: full - loaded, scratch, garbage: most - full }))
    // 5 % and 1 MiB: vectors are widened to float32, the last logits are kept, a cache grows in steps
    const near = (got: number, planned: number) => Math.abs(got - planned) <= 0.05 * planned + mib
    assert.ok(near(loaded, weights), `${loaded} loaded, ${weights} planned`)
    assert.ok(near(full - loaded, cache), `${full - loaded} cached, ${cache} planned`)
    assert.ok(most <= total, `${most} at most, ${total} planned`)
  })
}
