import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { decodeBfloat16 } from '../src/base/bfloat16.ts'
import { fp4Values } from '../src/base/mxfp4.ts'
import { type Checkpoint, openCheckpoint } from '../src/checkpoint/checkpoint.ts'
import { decodeMxfp4 } from '../src/checkpoint/mxfp4.ts'
import { layerNames, outerNames } from '../src/checkpoint/names.ts'
import { openFolder } from '../src/checkpoint/source.node.ts'
import { ReferenceDevice } from '../src/device/reference.ts'
import { readConfig } from '../src/model/config.ts'
import { publishedConfig } from '../src/model/published.ts'
import { checkTensors } from '../src/model/tensors.ts'
import { behaves, checkWeights, report } from './check-weights.ts'
import { toFloat16 } from './gguf.ts'
import { makeCheckpoint } from './make-checkpoint.ts'

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
    await makeCheckpoint(join(folder, 'model.gguf'), { config, layout: 'gguf', seed: 1 })
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

  test('has weights of the deviations that it says, whose rows have nothing to do with each other', async () => {
    const checkpoint = await openMade('openai')
    const values = async (name: string) => decodeBfloat16(new Uint16Array((await bytesOf(checkpoint, [name])).buffer))
    const mxfp4 = async (name: string) =>
      decodeMxfp4(await bytesOf(checkpoint, [`${name}.blocks`]), await bytesOf(checkpoint, [`${name}.scales`]))
    const cases: [what: string, values: Float32Array, width: number, std: number][] = [
      ['embedding', await values('embedding.weight'), 128, 1],
      ['qkv', await values('block.0.attn.qkv.weight'), 128, 1 / Math.sqrt(128)],
      ['out', await values('block.0.attn.out.weight'), 512, 0.5 / Math.sqrt(512)],
      ['gateUp', await mxfp4('block.0.mlp.mlp1_weight'), 128, 1.6 / Math.sqrt(128)],
      ['down', await mxfp4('block.1.mlp.mlp2_weight'), 96, 0.25 / Math.sqrt(96)],
    ]
    for (const [what, numbers, width, std] of cases) {
      // 60,000 numbers and more: the deviation itself is exact to 0.3 %, MXFP4's rounding adds 1 %.
      const measured = Math.hypot(...runLengths(numbers)) / Math.sqrt(numbers.length)
      assert.ok(Math.abs(measured / std - 1) < 0.03, `${what}: ${measured} instead of ${std}`)
      const row = (r: number) => numbers.subarray(r * width, (r + 1) * width)
      const count = Math.min(300, numbers.length / width)
      for (let r = 1; r < count; r++) {
        for (let other = 0; other < r; other++) {
          // Of 45,000 pairs chance brings the worst to 4.5 deviations of 1/√width, which is 0.46.
          const cosine = Math.abs(dot(row(r), row(other))) / (width * std * std)
          assert.ok(cosine < 0.7, `${what}: rows ${other} and ${r} have the cosine ${cosine}`)
        }
      }
    }
    assert.notDeepEqual(await values('block.0.attn.qkv.weight'), await values('block.1.attn.qkv.weight'))
    await checkpoint.close()
  })

  test('has the same weights as a GGUF file', async () => {
    const gguf = readGguf(await readFile(join(folder, 'model.gguf')))
    const checkpoint = await openMade('openai')
    const bfloat16 = async (name: string) => decodeBfloat16(new Uint16Array((await bytesOf(checkpoint, [name])).buffer))
    assert.equal(gguf.get('token_embd.weight')!.dims.join(), '128,1000')
    for (const [theirs, ours] of [
      ['token_embd.weight', 'embedding.weight'],
      ['output.weight', 'unembedding.weight'],
      ['blk.1.attn_output.weight', 'block.1.attn.out.weight'],
    ]) {
      assertRounded(gguf.get(theirs)!.values, await bfloat16(ours))
    }
    const qkv = await bfloat16('block.1.attn.qkv.weight')
    assertRounded(gguf.get('blk.1.attn_k.weight')!.values, qkv.subarray(512 * 128, (512 + 128) * 128))
    const qkvBias = await bfloat16('block.1.attn.qkv.bias')
    assert.deepEqual(gguf.get('blk.1.attn_v.bias')!.values, qkvBias.slice(640))
    assert.deepEqual(gguf.get('blk.0.ffn_gate_inp.weight')!.values, await bfloat16('block.0.mlp.gate.weight'))
    assert.deepEqual(gguf.get('output_norm.weight')!.values, await bfloat16('norm.scale'))

    const mxfp4 = async (name: string) =>
      decodeMxfp4(await bytesOf(checkpoint, [`${name}.blocks`]), await bytesOf(checkpoint, [`${name}.scales`]))
    const gateUp = await mxfp4('block.1.mlp.mlp1_weight')
    const gateUpBias = await bfloat16('block.1.mlp.mlp1_bias')
    for (const [half, name] of ['gate', 'up'].entries()) {
      const rows = Float32Array.from(gateUp.filter((_, i) => Math.floor(i / 128) % 2 === half))
      assert.deepEqual(gguf.get(`blk.1.ffn_${name}_exps.weight`)!.values, rows)
      assert.deepEqual(
        gguf.get(`blk.1.ffn_${name}_exps.bias`)!.values,
        gateUpBias.filter((_, i) => i % 2 === half),
      )
    }
    assert.deepEqual(gguf.get('blk.0.ffn_down_exps.weight')!.values, await mxfp4('block.0.mlp.mlp2_weight'))
    await checkpoint.close()
  })

  test('goes on where it was cut off, and is then the same', async () => {
    for (const [name, layout] of [
      ['cut', 'openai'],
      ['cut.gguf', 'gguf'],
    ] as const) {
      const path = join(folder, name)
      const options = { config: { ...config, vocabSize: 80000 }, layout, seed: 1 } // several chunks of 8 MiB
      const stop = new AbortController()
      const interrupted = makeCheckpoint(path, {
        ...options,
        signal: stop.signal,
        onProgress: done => done > 9e6 && stop.abort(),
      })
      await assert.rejects(interrupted, /is not whole yet: the same command goes on where it stopped/)
      const file = layout === 'gguf' ? path : join(path, 'model.safetensors')
      await assert.rejects(stat(file), 'no file has its name before it is whole')
      const other = makeCheckpoint(path, { ...options, seed: 2 })
      await assert.rejects(other, /partial is there already and holds something else/)

      const starts: number[] = []
      await makeCheckpoint(path, { ...options, onProgress: done => void starts.push(done) })
      assert.equal(starts[0], 16 * 2 ** 20, 'two chunks were there')
      await makeCheckpoint(path, { ...options, onProgress: done => void starts.push(done) })
      assert.equal(starts.at(-1), (await stat(file)).size, 'what is whole is left alone')
      const whole = layout === 'gguf' ? join(folder, 'uncut.gguf') : join(folder, 'uncut')
      await makeCheckpoint(whole, options)
      assert.ok(
        (await readFile(file)).equals(await readFile(layout === 'gguf' ? whole : join(whole, 'model.safetensors'))),
      )
    }
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

  test('is not written over another, or beside other files', async () => {
    const other = makeCheckpoint(join(folder, 'openai'), { config, layout: 'openai', files: 1, seed: 3 })
    await assert.rejects(
      other,
      /model\.safetensors is there already and holds something else: remove it, or give another/,
    )
    const beside = makeCheckpoint(join(folder, 'openai'), { config, layout: 'huggingface', files: 3, seed: 1 })
    await assert.rejects(beside, /config\.json is there already and holds something else/)
    const among = makeCheckpoint(folder, { config, layout: 'openai', files: 1, seed: 1 })
    await assert.rejects(among, /holds other files \(.*, …\): give a new folder/)
  })

  test('is refused where the disk has no room for it', async () => {
    const huge = { ...publishedConfig('20b'), vocabSize: 2e9 }
    const refused = makeCheckpoint(join(folder, 'huge'), { config: huge, layout: 'openai', seed: 1 })
    await assert.rejects(refused, /huge still needs \d{5}\.\d GiB and its disk has \d+\.\d free: make room/)
  })

  test('behaves: random tokens spread over the experts of every layer', async () => {
    const figures = await checkWeights(join(folder, 'openai'), 256, 1, new ReferenceDevice())
    assert.equal(figures.layers.length, 2)
    assert.ok(behaves(figures), report(figures))
    const [layer] = figures.layers
    const lost = { ...figures, layers: [{ ...layer, expertsUsed: 6, largestShare: 0.7, clamped: 0.1, outliers: 0 }] }
    assert.equal(behaves(lost), false)
    assert.match(report(lost), /← fewer than 7 experts, more than 60\.0 % for one, more than 5 % clamped, no outliers/)
  })
})

test('float16 is rounded as the standard says', () => {
  const cases: [number, number][] = [
    [0, 0],
    [1, 0x3c00],
    [0.1, 0x2e66],
    [65504, 0x7bff],
    [1.9999, 0x4000],
    [2 ** -14, 0x0400],
    [2 ** -15, 0x0200],
    [3 * 2 ** -24, 3],
  ]
  for (const [value, bits] of cases) assert.equal(toFloat16(value), bits, `${value}`)
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

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + value * b[i], 0)
}

/** Q8_0 has 127 steps up to the largest of 32 values, whose scale is a float16. */
function assertRounded(rounded: Float32Array, values: Float32Array): void {
  assert.equal(rounded.length, values.length)
  for (let i = 0; i < values.length; i += 32) {
    const group = values.subarray(i, i + 32)
    const step = Math.max(...group.map(Math.abs)) / 127
    for (let j = 0; j < 32; j++) assert.ok(Math.abs(rounded[i + j] - group[j]) < 0.57 * step, `value ${i + j}`)
  }
}

/** The tensors of a GGUF file, read by its specification. */
function readGguf(file: Buffer): Map<string, { dims: number[]; values: Float32Array }> {
  let at = 0
  const u32 = () => file.readUInt32LE((at += 4) - 4)
  const u64 = () => Number(file.readBigUInt64LE((at += 8) - 8))
  const text = (length: number) => file.toString('utf8', at, (at += length))
  const skip = (type: number): void => {
    if (type === 8) text(u64())
    else if (type === 9) {
      const of = u32()
      for (let left = u64(); left > 0; left--) skip(of)
    } else u32() // all others here have four bytes
  }
  assert.equal(text(4), 'GGUF')
  assert.equal(u32(), 3)
  const [numTensors, numFields] = [u64(), u64()]
  for (let i = 0; i < numFields; i++) {
    text(u64())
    skip(u32())
  }
  const tensors = Array.from({ length: numTensors }, () => {
    const name = text(u64())
    const dims = Array.from({ length: u32() }, u64)
    return { name, dims, type: u32(), offset: u64() }
  })
  const start = Math.ceil(at / 32) * 32
  const values = ({ dims, type, offset }: (typeof tensors)[number]): Float32Array => {
    assert.equal(offset % 32, 0)
    const out = new Float32Array(dims.reduce((a, b) => a * b, 1))
    let byte = start + offset
    for (let i = 0; i < out.length; i += 32) {
      if (type === 0) {
        for (let j = i; j < Math.min(i + 32, out.length); j++, byte += 4) out[j] = file.readFloatLE(byte)
      } else if (type === 8) {
        const scale = fromFloat16(file.readUInt16LE(byte))
        for (let j = 0; j < 32; j++) out[i + j] = scale * file.readInt8(byte + 2 + j)
        byte += 34
      } else {
        assert.equal(type, 39)
        const factor = 2 ** (file[byte] - 127)
        for (let j = 0; j < 16; j++) {
          out[i + j] = fp4Values[file[byte + 1 + j] & 15] * factor
          out[i + 16 + j] = fp4Values[file[byte + 1 + j] >> 4] * factor
        }
        byte += 17
      }
    }
    return out
  }
  return new Map(tensors.map(tensor => [tensor.name, { dims: tensor.dims, values: values(tensor) }]))
}

/** Numbers that are not negative and not too small. */
const fromFloat16 = (bits: number): number => 2 ** ((bits >> 10) - 15) * (1 + (bits & 1023) / 1024)
