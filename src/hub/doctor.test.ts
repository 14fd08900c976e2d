import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { ReferenceDevice } from '../device/reference.ts'
import { chooseContext, planMemory } from '../model/memory.ts'
import { publishedConfig } from '../model/published.ts'
import { planWeights } from '../model/weights.ts'
import {
  type Candidate,
  decodeSeconds,
  diagnose,
  machineAdvice,
  predict,
  prefillSeconds,
  visitedExperts,
} from './doctor.ts'
import { declaredTensors } from './doctor-headers.ts'
import { cpuList, cpuQuota, type Machine } from './doctor-machine.ts'
import type { Speeds } from './doctor-measure.ts'
import { showRate, showReport } from './doctor-report.ts'

const gib = 2 ** 30
const config20b = publishedConfig('20b')
const config120b = publishedConfig('120b')

/** Rounds what may be rounded to 8 bits of its own, and uses all else where it is mapped, as the cpu device does. */
const reference = new ReferenceDevice()
const device: Candidate['device'] = {
  name: 'cpu (avx2, 2 threads, fast)',
  maxChunk: 512,
  cacheBytes: (shape, tokens) => reference.cacheBytes(shape, tokens) / 2,
  snapshotBytes: (shape, tokens) => reference.snapshotBytes(shape, tokens) / 2,
  passBytes: (sizes, tokens) => reference.passBytes(sizes, tokens),
}
const smallCache = {
  ...device,
  cacheBytes: (shape: Parameters<typeof device.cacheBytes>[0], tokens: number) => device.cacheBytes(shape, tokens) / 2,
}
const mapping: Parameters<typeof planWeights>[0] = {
  weightBytes: ({ byteLength }, { mayRound } = {}) =>
    mayRound ? { own: (byteLength * 17) / 32, mapped: 0 } : { own: 0, mapped: byteLength },
}

function candidate(size: '20b' | '120b'): Candidate {
  const config = publishedConfig(size)
  return {
    name: `gpt-oss-${size}`,
    config,
    device,
    smallCache,
    weights: planWeights(mapping, declaredTensors(config), config),
    choices: { device: 'cpu', precision: 'fast', cache: 'bf16', exactBytes: 3.7e9 },
  }
}

function machine(availableBytes: number, more: Partial<Machine> = {}): Machine {
  return {
    cpu: 'A CPU',
    ...{ logicalCpus: 2, allowedCpus: 2, allowedCores: 2 },
    memory: { totalBytes: 32 * gib, availableBytes },
    kernels: { levels: ['avx2', 'baseline'], threads: 2 },
    hugePages: 'madvise',
    ...more,
  }
}

const ms = 1e-3
/** Of two cores that read 24 GB/s with the kernels, in round numbers. */
const speeds: Speeds = {
  reads: { huge: 34e9, small: 30e9 },
  decodeLayer: 3.6 * ms,
  unembeddingRow: (25 * ms) / 201_088,
  contextToken: (3 * ms) / 32_768,
  prompts: [
    { tokens: 64, layer: 65 * ms, lastLayer: 15 * ms },
    { tokens: 512, layer: 440 * ms, lastLayer: 90 * ms },
  ],
  numExperts: 32,
  experts: [
    { tokens: 16, seconds: 16 * ms },
    { tokens: 64, seconds: 50 * ms },
    { tokens: 128, seconds: 90 * ms },
    { tokens: 512, seconds: 310 * ms },
  ],
}

const close = (actual: number, expected: number) => assert.ok(Math.abs(actual / expected - 1) < 1e-9, `${actual}`)

describe('the declared tensors', () => {
  it('have the bytes of the published files, but for their headers', () => {
    for (const [config, files] of [
      [config20b, 13_761_316_904],
      [config120b, 65_248_893_184],
    ] as const) {
      const bytes = [...declaredTensors(config).tensors.values()].reduce((sum, tensor) => sum + tensor.byteLength, 0)
      assert.ok(files > bytes && files - bytes < 200_000, `${files - bytes}`)
    }
  })
})

describe('what a machine’s memory holds', () => {
  const cases = [
    ['20b', 1, 'refused'],
    ['20b', 8, 'pages'],
    ['20b', 10, 'pages'],
    ['20b', 24, 'fits'],
    ['120b', 1, 'refused'],
    ['120b', 8, 'pages'],
    ['120b', 48, 'pages'],
    ['120b', 80, 'fits'],
  ] as const
  for (const [size, memory, verdict] of cases) {
    it(`gpt-oss-${size} with ${memory} GiB: ${verdict}, as loading would find`, () => {
      const model = candidate(size)
      const options = { device, weights: model.weights, maxChunk: 512, maxSessions: 8 }
      const found = diagnose(model, { machine: machine(memory * gib), speeds })
      assert.equal(found.chosen.verdict, verdict)
      for (const { contextLength, plan } of found.needs) {
        assert.deepEqual(plan, planMemory(model.config, contextLength, options))
      }
      assert.deepEqual(
        found.needs.map(need => need.contextLength),
        [4096, 32_768, 131_072],
      )
      const choose = () => chooseContext(model.config, memory * gib, options)
      if (verdict === 'refused') {
        assert.throws(choose, { message: found.refusal })
        assert.equal(found.speed, undefined)
        assert.match(found.advice[0], /^free \d\.\d GiB more memory to run it at all/)
      } else {
        const { contextLength, plan } = choose()
        assert.equal(found.chosen.contextLength, contextLength)
        assert.deepEqual(found.chosen.plan, plan)
      }
      assert.equal(
        found.advice.some(text => /no token would wait for the disk/.test(text)),
        verdict !== 'fits',
      )
    })
  }

  it('a context that was asked for is the one that counts', () => {
    const asked = { machine: machine(24 * gib), speeds, wanted: 2000 }
    const { chosen, why, speed } = diagnose(candidate('20b'), asked)
    assert.equal(chosen.contextLength, 2000)
    assert.ok(why.includes('2000 tokens of context, as was asked for'))
    assert.deepEqual(
      speed?.decode.map(({ context }) => context),
      [0],
    )
    assert.throws(() => diagnose(candidate('20b'), { machine: machine(24 * gib), wanted: 200_000 }), {
      name: 'RequestError',
    })
  })

  it('a smaller cache is advised where it makes room for more context', () => {
    const { chosen, advice } = diagnose(candidate('20b'), { machine: machine(14 * gib), speeds })
    assert.ok(chosen.contextLength < 131_072)
    assert.match(advice.join('\n'), /--cache=q8 makes room for \d+ tokens of context instead of \d+/)
    assert.deepEqual(diagnose(candidate('20b'), { machine: machine(64 * gib), speeds }).advice, [])
  })
})

describe('predicted speed', () => {
  it('of decoding: every layer, the unembedding, and what the full layers hold', () => {
    close(decodeSeconds(config20b, speeds, 0), (24 * 3.6 + 25) * ms)
    close(decodeSeconds(config20b, speeds, 32_768), (24 * 3.6 + 25 + 12 * 3) * ms)
    close(decodeSeconds(config120b, speeds, 0), (36 * 3.6 + 25) * ms)
  })

  it('of prefill: whole layers, the last one, and the unembedding', () => {
    assert.equal(visitedExperts(config20b, 1), 4)
    const [short, long] = speeds.prompts
    close(prefillSeconds(config20b, speeds, short), (23 * 65 + 15 + 25) * ms)
    close(prefillSeconds(config20b, speeds, long), (23 * 440 + 90 + 25) * ms)
  })

  it('of a model with more experts: those of so many layers that share the tokens', () => {
    const [short, long] = speeds.prompts
    // 128 experts: four times what 32 take for a quarter of the tokens, in place of what they take for all.
    close(prefillSeconds(config120b, speeds, short), (35 * (65 - 50 + 4 * 16) + 15 + 25) * ms)
    close(prefillSeconds(config120b, speeds, long), (35 * (440 - 310 + 4 * 90) + 90 + 25) * ms)
    // 64 experts: half of 64 tokens are on the line from 16 to 64.
    const config = { ...config20b, numExperts: 64 }
    close(prefillSeconds(config, speeds, short), (23 * (65 - 50 + 2 * (16 + 34 / 3)) + 15 + 25) * ms)
  })

  it('stays a speed where there are more experts than were foreseen, or a busy machine measured nonsense', () => {
    const nonsense = speeds.experts.map(({ tokens }, n) => ({ tokens, seconds: n }))
    for (const [config, measured] of [
      [{ ...config20b, numExperts: 4096 }, speeds],
      [config120b, { ...speeds, experts: nonsense }],
      [config120b, { ...speeds, prompts: speeds.prompts.map(prompt => ({ ...prompt, layer: 0 })) }],
    ] as const) {
      for (const prompt of measured.prompts) {
        const seconds = prefillSeconds(config, measured, prompt)
        assert.ok(seconds > 0 && seconds < Infinity, `${seconds}`)
      }
    }
  })

  it('where weights are read from the disk: their time is added, once for a prompt', () => {
    const { chosen } = diagnose(candidate('120b'), { machine: machine(16 * gib), speeds })
    const { perToken, missing } = chosen.paging!
    assert.ok(Math.abs(perToken - (missing * 4) / 128) < 1)
    const { decode, prefill, disk } = predict(config120b, speeds, chosen, 1e9)
    assert.deepEqual(disk, { bytesPerSecond: 1e9, measured: true })
    close(1 / decode[0].tokensPerSecond, decodeSeconds(config120b, speeds, 0) + perToken / 1e9)
    const whole = prefillSeconds(config120b, speeds, speeds.prompts[1]) + missing / 1e9
    assert.ok(Math.abs(512 / prefill[1].tokensPerSecond / whole - 1) < 1e-3)
    assert.equal(predict(config120b, speeds, chosen).disk?.measured, false)
  })
})

describe('advice for a machine', () => {
  it('none where all of it is used', () => assert.deepEqual(machineAdvice(machine(8 * gib)), []))

  for (const [name, more, expected] of [
    ['a quota', { cpuQuota: 1, kernels: { levels: ['avx2'], threads: 1 } }, /2 cores, but gets the time of 1/],
    ['an affinity', { logicalCpus: 8 }, /all 8 CPUs .* may use 2/],
    ['no large pages', { hugePages: 'never' }, /echo madvise/],
    ['no kernels', { kernels: undefined, noKernels: 'not built' }, /C compiler.*npm run prepare/],
  ] as const) {
    it(`where there is ${name}`, () => {
      const advice = machineAdvice(machine(8 * gib, more as Partial<Machine>))
      assert.equal(advice.length, 1)
      assert.match(advice[0], expected)
    })
  }
})

describe('the system’s own words', () => {
  it('are read', () => {
    assert.deepEqual(cpuList('0-2,8'), [0, 1, 2, 8])
    assert.deepEqual(cpuList('5'), [5])
    assert.equal(cpuQuota('150000 100000'), 1.5)
    assert.equal(cpuQuota('max 100000'), undefined)
    assert.equal(cpuQuota(''), undefined)
  })
})

describe('the printed report', () => {
  it('is whole', () => {
    const here = machine(20 * gib, {
      cpuQuota: 2,
      memory: { totalBytes: 32 * gib, availableBytes: 20 * gib, limitBytes: 24 * gib },
    })
    const models = (['20b', '120b'] as const).map(size => diagnose(candidate(size), { machine: here, speeds }))
    const text = showReport({ machine: here, speeds, models, advice: ['have luck'] })
    assert.equal(text, expectedReport)
  })

  it('has speeds that people can read', () => {
    assert.equal(showRate(9.34), '9.3 tokens/s')
    assert.equal(showRate(51.2), '51 tokens/s')
    assert.equal(showRate(512.7), '513 tokens/s')
    assert.equal(showRate(0.08), '13 s a token')
  })
})

const expectedReport = `This machine
  processor          A CPU, 2 CPUs, 2 of them usable here (2 cores), limited to the time of 2
  native kernels     for avx2, baseline; 2 threads by default
  memory             32.0 GiB, 20.0 GiB available; this process may use 24.0 GiB
  memory speed       30 GB/s in pages of 4 KiB, 34 GB/s in 2 MiB

gpt-oss-20b (tutti pull gpt-oss-20b downloads it): fits, expect about 9.0 tokens/s
  would run on       cpu (avx2, 2 threads, fast)
                     2 threads: one for each core that this process gets
                     precision fast: a token reads 2.57 GB of weights, and 3.70 GB with exact
                     cache bf16: as exact as the model was made for
                     131072 tokens of context: all that the model was made for
  needs              1.2 GiB for weights, 3.4 GiB for the cache, 336 MiB to work in, and 10.6 GiB of its files in memory
  writes             9.0 tokens/s, 8.6 tokens/s behind 4096 others, 6.8 tokens/s behind 32768 others
  reads prompts      64 tokens in 1.5 s (42 tokens/s), 512 tokens in 10 s (50 tokens/s)
  by context           4096 tokens:  1.9 GiB + 10.6 GiB of files: fits
                      32768 tokens:  2.6 GiB + 10.6 GiB of files: fits
                     131072 tokens:  5.0 GiB + 10.6 GiB of files: fits

gpt-oss-120b (tutti pull gpt-oss-120b downloads it): runs, but reads some of its weights from the disk again and again, expect about 1.2 tokens/s
  would run on       cpu (avx2, 2 threads, fast)
                     2 threads: one for each core that this process gets
                     precision fast: a token reads 3.56 GB of weights, and 3.70 GB with exact
                     cache bf16: as exact as the model was made for
                     8192 tokens of context: more would leave less memory for its weights
  needs              1.5 GiB for weights, 697 MiB for the cache, 336 MiB to work in, and 57.9 GiB of its files in memory
  writes             1.2 tokens/s, 1.2 tokens/s behind 4096 others
  reads prompts      64 tokens in 21 s (3.0 tokens/s), 512 tokens in 38 s (13 tokens/s)
  disk               assumed: 2.0 GB/s; give the model’s folder to have it measured
  by context           4096 tokens:  2.4 GiB + 57.9 GiB of files: reads from the disk
                      32768 tokens:  3.4 GiB + 57.9 GiB of files: reads from the disk
                     131072 tokens:  7.0 GiB + 57.9 GiB of files: reads from the disk
  what would help
    - with 59.4 GiB of free memory instead of 20.0 GiB no token would wait for the disk; until then a faster disk helps

What would make any model faster here
  - have luck

A token is some three quarters of an English word. docs/models.md says which model and which options suit which machine.
`
