import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { openFolder } from '../checkpoint/source.node.ts'
import { safetensorsHeader } from '../checkpoint/write.ts'
import { CpuDevice } from '../device/cpu.node.ts'
import { loadNative } from '../device/native.node.ts'
import { declaredTensors } from '../hub/doctor-headers.ts'
import type { Machine } from '../hub/doctor-machine.ts'
import type { Speeds } from '../hub/doctor-measure.ts'
import { showReport } from '../hub/doctor-report.ts'
import type { StoredTensor, Tensor } from '../kernels/tensor.ts'
import { publishedConfig } from '../model/published.ts'
import { openModel } from '../open-engine.ts'
import { examine } from './doctor.ts'
import { FakeShell } from './testing.ts'

const native = loadNative()
const hasKernels = typeof native !== 'string'

describe('tutti doctor', () => {
  it('tells of a model that is there', async () => {
    const { code, stdout, stderr } = await new FakeShell().run(
      'doctor',
      '--model=nano',
      '--device=reference',
      '--context=1000',
    )
    assert.equal(code, 0, stderr)
    assert.equal(stderr, '')
    assert.match(stdout, /^This machine\n {2}processor {2,}\S.*\n/)
    assert.match(stdout, /\ngpt-oss-nano in \S+models\/nano: fits, but runs some hundred times slower/)
    assert.match(stdout, /\n {2,}1000 tokens of context, as was asked for\n/)
    assert.doesNotMatch(stdout, /NaN|undefined|Infinity/)
  })

  it('measures, and prints an object with --json', async () => {
    const { code, stdout } = await new FakeShell().run('doctor', '--model=nano', '--json')
    assert.equal(code, 0)
    const report = JSON.parse(stdout)
    assert.deepEqual(Object.keys(report), ['machine', ...(hasKernels ? ['speeds'] : []), 'models', 'advice'])
    const [model] = report.models
    assert.equal(model.name, 'gpt-oss-nano')
    assert.equal(model.chosen.verdict, 'fits')
    assert.equal(model.chosen.contextLength, model.needs.at(-1).contextLength)
    for (const { plan } of model.needs) {
      assert.equal(plan.total, plan.weights + plan.cache + plan.scratch + plan.garbage)
    }
    const rates = hasKernels ? [...model.speed.decode, ...model.speed.prefill] : []
    for (const { tokensPerSecond } of rates) assert.ok(tokensPerSecond > 0, stdout)
  })

  it('needs no files to tell of the published models', async () => {
    const { code, stdout } = await new FakeShell().run('doctor', '--device=reference', '--context=4096')
    assert.equal(code, 0)
    assert.match(stdout, /\ngpt-oss-20b .*: .*\n/)
    assert.match(stdout, /\ngpt-oss-120b .*: .*\n/)
    assert.match(stdout, / 12\.8 GiB | 13\.\d GiB /)
    assert.match((await new FakeShell().run('doctor', '--device=reference', '--model=gpt-oss-120b')).stdout, /120b/)
  })

  it('refuses what is no model, and more context than a model has', async () => {
    const empty = mkdtempSync(join(tmpdir(), 'tutti-doctor-'))
    try {
      for (const [args, complaint] of [
        [[`--model=${empty}`], /holds no \*\.safetensors/],
        [['--model=gpt-oss-70b'], /there is no model "gpt-oss-70b"/],
        [['--model=nano', '--context=900000'], /900000 tokens was asked for; this model has 1 to/],
      ] as const) {
        const { code, stdout, stderr } = await new FakeShell().run('doctor', ...args)
        assert.equal(code, 1)
        assert.equal(stdout, '')
        assert.match(stderr, complaint)
      }
    } finally {
      rmSync(empty, { recursive: true })
    }
  })
})

/** The cpu device, which reads no weights. */
class WeightlessDevice extends CpuDevice {
  override async load([{ shape }]: readonly StoredTensor[]): Promise<Tensor> {
    return { dataType: 'bfloat16', shape }
  }
  override async loadMxfp4(_: StoredTensor, { shape: [experts, rows, groups] }: StoredTensor): Promise<Tensor> {
    return { dataType: 'mxfp4', shape: [experts, rows, 32 * groups] }
  }
}

const [mib, gib] = [2 ** 20, 2 ** 30]
const options = { threads: 2 }

function machine(availableBytes: number): Machine {
  return { cpu: 'A CPU', logicalCpus: 2, memory: { totalBytes: 64 * gib, availableBytes } }
}

/** Of two slow cores; a token of 120b takes 36 · 3.6 + 25 ms. */
const measure = async (): Promise<Speeds> => ({
  reads: { huge: 34e9, small: 30e9 },
  ...{ decodeLayer: 3.6e-3, unembeddingRow: 25e-3 / 201_088, contextToken: 1e-7, prompts: [], numExperts: 32 },
  experts: [],
})

const diagnosis = async (path: string, available: number, context: number) => {
  const wish = { model: path, context, options: { ...options, keep: false }, signal: new AbortController().signal }
  const report = await examine(wish, { machine: machine(available), measure })
  return { found: report.models[0], text: showReport(report) }
}

const load = async (path: string, availableMemory: number, contextLength: number) => {
  assert.ok(typeof native !== 'string')
  const device = new WeightlessDevice(native, options)
  const opened = await openModel({ folder: await openFolder(path), device, availableMemory, contextLength })
  opened.model.close()
  return opened
}

/** A checkpoint whose headers are real, and whose weights are holes. */
function writeHoles(folder: string): void {
  const config = publishedConfig('120b')
  const fields = {
    num_hidden_layers: config.numHiddenLayers,
    num_experts: config.numExperts,
    experts_per_token: config.expertsPerToken,
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    head_dim: config.headDim,
    num_attention_heads: config.numAttentionHeads,
    num_key_value_heads: config.numKeyValueHeads,
    sliding_window: config.slidingWindow,
  }
  writeFileSync(join(folder, 'config.json'), JSON.stringify(fields))
  const tensors = [...declaredTensors(config).tensors.values()]
  const header = safetensorsHeader(tensors)
  const path = join(folder, 'model.safetensors')
  writeFileSync(path, header)
  truncateSync(
    path,
    tensors.reduce((sum, { byteLength }) => sum + byteLength, header.length),
  )
}

describe('a checkpoint of gpt-oss-120b', { skip: hasKernels ? false : 'there are no native kernels' }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'tutti-doctor-'))
  writeHoles(folder)
  after(() => rmSync(folder, { recursive: true }))

  // By hand. A panel of 16 rows has 544 bytes for every 32 columns; blocks of 2 MiB and more are whole pages of that.
  const [q, k, out, unembedding] = [6 * 2 * mib, 32 * 90 * 544, 6 * 2 * mib, 294 * 2 * mib]
  const vectors = 4 * (3 * 2880 + 5120 + 64 + 128)
  const weights = 36 * (q + 2 * k + out + vectors) + unembedding + 4 * 2880
  const experts = 128 * (5760 * 90 * 17 + 2880 * 90 * 17 + 2 * 5760 + 2 * 2880)
  const [router, embedding] = [2 * 128 * 2880, 2 * 201_088 * 2880]
  const mapped = 36 * (experts + router) + embedding
  // 4,096 tokens and a chunk of 512 are 72 pages of 128 KiB; 8 sessions begin one each, and have a ring of 10 pages and 4
  // snapshots of 3, and there is a ring and a snapshot more.
  const cache = 18 * (72 + 8 + 9 * 10 + 33 * 3) * (mib / 8)
  const scratch = (15 + 19) * 2 * mib + 2 * mib
  const total = weights + cache + scratch + 32 * mib

  it('has the numbers of the published one, and is refused where its own memory does not fit', async () => {
    const { found, text } = await diagnosis(folder, 2 * gib, 4096)
    const { plan, verdict } = found.chosen
    assert.equal(verdict, 'refused')
    assert.deepEqual(plan, { weights, cache, scratch, garbage: 32 * mib, total, mapped })
    assert.equal(found.speed, undefined)
    await assert.rejects(load(folder, 2 * gib, 4096), { name: 'DeviceError', message: found.refusal })
    assert.match(
      text,
      /the model needs 2\.2 GiB \(weights 1\.5 GiB, cache for 4096 tokens 606 MiB, scratch 102 MiB\), and 2\.0 GiB are free/,
    )
    assert.match(text, /free 0\.2 GiB more memory to run it at all/)
  })

  it('pages where its experts do not fit, and doctor and loading say how slowly', async () => {
    const { found, text } = await diagnosis(folder, 16 * gib, 4096)
    const missing = total + mapped - embedding - 16 * gib
    const perToken = missing / 32 // 4 experts of 128
    assert.equal(found.chosen.verdict, 'pages')
    assert.deepEqual(found.chosen.paging, { missing, perToken })
    assert.deepEqual(found.speed?.disk, { bytesPerSecond: 2e9, measured: false }) // holes are not read from a disk
    const seconds = 36 * 3.6e-3 + 25e-3 + perToken / 2e9
    assert.ok(Math.abs(found.speed!.decode[0].tokensPerSecond * seconds - 1) < 1e-9)
    assert.match(text, /reads some of its weights from the disk again and again, expect about 1\.1 tokens\/s\n/)
    assert.match(text, /\n {2}disk +assumed: 2\.0 GB\/s; the model’s files are not written yet/)
    assert.match(text, /with 59\.0 GiB of free memory instead of 16\.0 GiB no token would wait for the disk/)

    const { plan, notice } = await load(folder, 16 * gib, 4096)
    assert.deepEqual(plan, found.chosen.plan)
    assert.match(
      notice!,
      /^43\.0 GiB of the 56\.8 GiB .* Expect some 1\.4 tokens a second at most: the disk is taken to read 2\.0 GB\/s/,
    )
  })
})

describe('the memory that the doctor foresees', { skip: hasKernels ? false : 'there are no native kernels' }, () => {
  const nano = fileURLToPath(new URL('../../models/nano', import.meta.url))
  for (const context of [500, 4096, 131_072]) {
    it(`is what loading plans, of nano with ${context} tokens`, async () => {
      const { found } = await diagnosis(nano, 8 * gib, context)
      assert.deepEqual(found.chosen.plan, (await load(nano, 8 * gib, context)).plan)
    })
  }
})
