import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { decodeBfloat16 } from '../src/base/bfloat16.ts'
import { type Checkpoint, openCheckpoint } from '../src/checkpoint/checkpoint.ts'
import { decodeMxfp4 } from '../src/checkpoint/mxfp4.ts'
import { layerNames, outerNames } from '../src/checkpoint/names.ts'
import { openFolder } from '../src/checkpoint/source.node.ts'
import { readConfig } from '../src/model/config.ts'
import { checkTensors } from '../src/model/tensors.ts'
import { makeCheckpoint, publishedConfig } from './make-checkpoint.ts'

const config = {
  ...publishedConfig('20b'),
  numHiddenLayers: 2,
  numExperts: 8,
  vocabSize: 1000,
  hiddenSize: 128,
  intermediateSize: 96,
  numAttentionHeads: 8,
  numKeyValueHeads: 2,
}

describe('a checkpoint with random weights', () => {
  let folder: string
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tutti-make-'))
    for (const layout of ['openai', 'huggingface'] as const) {
      await makeCheckpoint(join(folder, layout), { config, layout, files: 1, seed: 1 })
      await makeCheckpoint(join(folder, `${layout}-split`), { config, layout, files: 3, seed: 1 })
    }
  })
  after(() => rm(folder, { recursive: true }))
  const openMade = async (name: string): Promise<Checkpoint> => openCheckpoint(await openFolder(join(folder, name)))

  test('opens as what was asked for, in one file or several', async () => {
    const names = await readdir(join(folder, 'huggingface-split'))
    assert.ok(names.includes('model-00000-of-00002.safetensors'), names.join())
    for (const name of ['openai', 'openai-split', 'huggingface', 'huggingface-split']) {
      const checkpoint = await openMade(name)
      assert.equal(checkpoint.layout, name.replace('-split', ''))
      assert.equal(
        new Set([...checkpoint.tensors.values()].map(tensor => tensor.file)).size,
        name.endsWith('split') ? 3 : 1,
      )
      const read = readConfig(checkpoint.config, checkpoint.configPath)
      assert.deepEqual(read, config)
      checkTensors(checkpoint, read)
      await checkpoint.close()
    }
  })

  test('has the same weights in both layouts', async () => {
    const [openai, huggingface] = [await openMade('openai'), await openMade('huggingface-split')]
    const names = (layout: 'openai' | 'huggingface') => [
      outerNames(layout),
      layerNames(layout, 0),
      layerNames(layout, 1),
    ]
    const parts = names('openai').flatMap((group, i) => {
      const others: Record<string, readonly string[]> = { ...names('huggingface')[i] }
      return Object.entries(group).map(([part, ours]) => ({
        part,
        ours: ours as readonly string[],
        theirs: others[part],
      }))
    })
    assert.equal(parts.length, 33)
    for (const { part, ours, theirs } of parts) {
      assert.deepEqual(await bytesOf(openai, ours), await bytesOf(huggingface, theirs), part)
    }
    await openai.close()
    await huggingface.close()
  })

  test('has weights of the standard deviation 1/√fanIn, and differs from layer to layer', async () => {
    const checkpoint = await openMade('openai')
    const values = async (name: string) => decodeBfloat16(new Uint16Array((await bytesOf(checkpoint, [name])).buffer))
    const mxfp4 = async (name: string) =>
      decodeMxfp4(await bytesOf(checkpoint, [`${name}.blocks`]), await bytesOf(checkpoint, [`${name}.scales`]))
    const cases: [what: string, values: Float32Array, std: number][] = [
      ['embedding', await values('embedding.weight'), 1 / Math.sqrt(128)],
      ['qkv', await values('block.0.attn.qkv.weight'), 1 / Math.sqrt(128)],
      ['out', await values('block.0.attn.out.weight'), 1 / Math.sqrt(512)],
      ['gateUp', await mxfp4('block.0.mlp.mlp1_weight'), 1 / Math.sqrt(128)],
      ['down', await mxfp4('block.1.mlp.mlp2_weight'), 1 / Math.sqrt(96)],
    ]
    for (const [what, numbers, std] of cases) {
      // 60,000 numbers and more: the deviation itself is exact to 0.3 %, MXFP4's rounding adds 1 %.
      const measured = Math.hypot(...runLengths(numbers)) / Math.sqrt(numbers.length)
      assert.ok(Math.abs(measured / std - 1) < 0.03, `${what}: ${measured} instead of ${std}`)
    }
    assert.notDeepEqual(await values('block.0.attn.qkv.weight'), await values('block.1.attn.qkv.weight'))
    await checkpoint.close()
  })

  test('is the same for the same seed and another for another', async () => {
    const hash = async (name: string) =>
      createHash('sha256')
        .update(await readFile(join(folder, name, 'model.safetensors')))
        .digest('hex')
    await makeCheckpoint(join(folder, 'again'), { config, layout: 'openai', files: 1, seed: 1 })
    await makeCheckpoint(join(folder, 'other'), { config, layout: 'openai', files: 1, seed: 2 })
    assert.equal(await hash('again'), await hash('openai'))
    assert.notEqual(await hash('other'), await hash('openai'))
  })

  test('is not written over another', async () => {
    const again = makeCheckpoint(join(folder, 'openai'), { config, layout: 'openai', files: 1, seed: 1 })
    await assert.rejects(again, /openai is not empty \(config\.json, …\): give a new folder/)
  })
})

async function bytesOf(checkpoint: Checkpoint, names: readonly string[]): Promise<Uint8Array<ArrayBuffer>> {
  const parts = await Promise.all(names.map(name => checkpoint.tensors.get(name)!.read()))
  return Uint8Array.from(Buffer.concat(parts))
}

/** Lengths of runs of 1,000, few enough to be arguments. */
function runLengths(numbers: Float32Array): number[] {
  return Array.from({ length: Math.ceil(numbers.length / 1000) }, (_, i) =>
    Math.hypot(...numbers.subarray(i * 1000, (i + 1) * 1000)),
  )
}
