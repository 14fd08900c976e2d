import assert from 'node:assert/strict'
import { appendFileSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { publishedConfig } from '../../src/model/published.ts'
import { divergence } from './divergence.ts'
import { benchTests, benchValues } from './ik.ts'
import { KeptRuns } from './kept-runs.ts'
import { bytesOfPass, cacheBytes } from './limit.ts'
import {
  allNames,
  type Bench,
  type Group,
  groupsOf,
  isVoid,
  maxVoidRuns,
  type Run,
  resultOf,
  takeRuns,
  usualNames,
} from './rounds.ts'

const run = (side: Run['side'], values: Run['values'], plainRead: Run['plainRead'] = [30e9, 29e9]): Run => {
  return { side, values, plainRead }
}
const setting = { cpu: 'a CPU', model: 'random', config: publishedConfig('20b'), options: {}, commit: '0123456789' }

test('measures of one group and one peer share their processes, and unknown ones are named with those there are', () => {
  assert.deepEqual(groupsOf(['decode', 'start', 'prefill-512', 'decode', 'prefill-512-ik', 'sessions-8']), [
    { peer: 'node-llama-cpp', names: ['decode', 'prefill-512'] },
    { peer: 'node-llama-cpp', names: ['start'] },
    { peer: 'ik_llama.cpp', names: ['prefill-512'] },
    { peer: 'none', names: ['sessions-8'] },
  ])
  assert.throws(() => groupsOf(['prefil-512']), /no measure prefil-512; there are decode, prefill-64, prefill-512, /)
  assert.throws(() => groupsOf(['sessions-8-ik']), /no measure sessions-8-ik/)
})

test('a prompt of 8,192 tokens runs only where it is named', () => {
  assert.ok(allNames().includes('prefill-8192-ik'))
  assert.deepEqual(
    allNames().filter(name => !usualNames().includes(name)),
    ['prefill-8192', 'start-cold', 'prefill-8192-ik'],
  )
})

test('a run is void where plain reads changed by more than a tenth, up or down', () => {
  assert.equal(isVoid(run('ours', {}, [30e9, 27.1e9])), false)
  assert.equal(isVoid(run('ours', {}, [30e9, 26.9e9])), true)
  assert.equal(isVoid(run('ours', {}, [30e9, 33.1e9])), true)
})

test('a result has medians, their ratio with better above 1, and the spread', () => {
  const runs = [
    run('ours', { decode: 10, start: 2 }),
    run('peer', { decode: 5, start: 20 }, [31e9, 30e9]),
    run('ours', { decode: 11, start: 3 }),
    run('peer', { decode: 6, start: 10 }),
    run('ours', { decode: 99, start: 1 }),
    run('peer', { decode: 5.5, start: 12 }),
  ]
  const { date, ...result } = resultOf('decode', 'node-llama-cpp', runs, setting)
  assert.match(date, /^\d{4}-\d\d-\d\d$/)
  assert.deepEqual(result, {
    measure: 'decode',
    ours: 11,
    peer: 5.5,
    ratio: 2,
    limit: null,
    unit: 'tokens/s',
    cpu: 'a CPU',
    against: 'node-llama-cpp',
    spread: { ours: [10, 99], peer: [5, 6] },
    plainRead: [29, 31],
    rounds: 3,
    model: 'random',
    commit: '0123456789',
    options: {},
    more: {},
  })
  const fields = ['measure', 'ours', 'peer', 'ratio', 'limit', 'unit', 'cpu']
  assert.deepEqual(Object.keys(resultOf('decode', 'node-llama-cpp', runs, setting)).slice(0, fields.length), fields)
  const start = resultOf('start', 'ik_llama.cpp', runs, setting)
  assert.deepEqual([start.measure, start.ours, start.peer, start.ratio], ['start-ik', 2, 12, 6])
})

/** Runs of ours around which both kinds of memory were read at 30 GB/s. */
const atThirty = (...values: Run['values'][]): Run[] =>
  values.map(values => ({ ...run('ours', values, [30e9, 30e9]), mappedRead: 30e9 }))

test('a token of gpt-oss-20b reads 2.56 GB, and 0.805 more behind 32k, or 0.428 at 8 bits', () => {
  const { own, mapped } = bytesOfPass(setting.config, { keep: false })
  assert.equal((mapped / 1e9).toFixed(2), '1.27')
  assert.equal((own / 1e9).toFixed(2), '1.29')
  assert.deepEqual(bytesOfPass(setting.config), { own: 0, mapped: own + mapped })
  assert.equal(cacheBytes(setting.config, 32_768), 805_306_368)
  assert.equal(cacheBytes(setting.config, 32_768, { cache: 'q8' }), (805_306_368 * 34) / 64)
})

test('decode is told what plain reads of its own run would allow', () => {
  const runs = [...atThirty({ decode: 9 }), { ...run('ours', { decode: 6 }, [15e9, 15e9]), mappedRead: 15e9 }]
  const { limit, more } = resultOf('decode', 'node-llama-cpp', [...runs, run('peer', { decode: 5 })], setting)
  const allowed = 30e9 / (1.27e9 + 1.29e9)
  assert.ok(Math.abs(limit! - 0.75 * allowed) < 0.03, `${limit}`) // the median of 11.7 and half of it
  assert.ok(Math.abs(more.ofLimit - (9 / allowed + 6 / (allowed / 2)) / 2) < 0.005, `${more.ofLimit}`)
})

test('eight sessions are compared with one, and the limit is that of the experts that they chose', () => {
  const runs = atThirty(
    { 'sessions-8': 24, 'sessions-1': 12, 'distinct-experts': 20.5 },
    { 'sessions-8': 26, 'sessions-1': 12, 'distinct-experts': 21.5 },
  )
  const result = resultOf('sessions-8', 'none', runs, setting)
  assert.deepEqual([result.ours, result.peer, result.ratio, result.against], [25, 12, 2.083, 'sessions-1'])
  assert.equal(result.more.distinctExperts, 21)
  assert.ok(Math.abs(result.more.ratioLimit - 2.58) < 0.02, `${result.more.ratioLimit}`)
  assert.ok(Math.abs(result.limit! - 2.58 * (30 / 2.56)) < 0.3, `${result.limit}`)
})

test('behind 32k attention is what the longer context adds, beside a plain read', () => {
  // 0.805 GB at 15 of 30 GB/s: 53.7 ms more than 100.
  const runs = atThirty({ 'decode-0': 10, 'decode-32k': 1 / (0.1 + 0.805306368 / 15) })
  const { ratio, against, more } = resultOf('decode-32k', 'none', runs, setting)
  assert.equal(against, 'decode-0')
  assert.equal(ratio.toFixed(2), '0.65')
  assert.equal(more.attentionOfRead, 0.5)
  assert.equal(more.ratioLimit.toFixed(2), '0.76')
  const q8 = resultOf('decode-32k', 'none', runs, { ...setting, options: { cache: 'q8' } })
  assert.equal(q8.more.ratioLimit.toFixed(2), '0.86')
})

test('a cold start is compared with reading the files, and private memory apart from what is mapped', () => {
  const values = { 'start-cold': 15, disk: 12, 'disk-before': 14, 'disk-after': 12 }
  const cold = resultOf('start-cold', 'none', [run('ours', values)], setting)
  assert.deepEqual([cold.ours, cold.peer, cold.ratio, cold.against], [15, 12, 0.8, 'disk'])
  assert.deepEqual(cold.more, { diskBefore: 14, diskAfter: 12 })
  const memory = resultOf(
    'memory',
    'node-llama-cpp',
    [run('ours', { memory: 1.6, 'memory-mapped': 12 }), run('peer', { memory: 20, 'memory-mapped': 0.3 })],
    setting,
  )
  assert.deepEqual([memory.ratio, memory.more], [12.5, { mapped: 12, peerMapped: 0.3 }])
})

// --- runs in turn ---

const beside: Group = { peer: 'node-llama-cpp', names: ['decode'] }

/** Sides that count their runs; those whose number is in `voids` are disturbed, and `cutAt` ends the process. */
function fakeBench({ voids = [], cutAt = Infinity }: { voids?: number[]; cutAt?: number } = {}) {
  const [taken, kept, told]: [string[], Run[], string[]] = [[], [], []]
  const bench: Bench = {
    async take(side) {
      if (taken.length === cutAt) throw new Error('cut off')
      const number = taken.push(side)
      return run(side, { decode: number }, [30e9, voids.includes(number) ? 20e9 : 30e9])
    },
    keep: run => void kept.push(run),
    tell: (_, remark = 'taken') => void told.push(remark),
  }
  return { bench, taken, kept, told }
}

test('sides run in turn, ours first, and alone where there is no peer', async () => {
  const { bench, taken } = fakeBench()
  const runs = await takeRuns(beside, 3, [], bench)
  assert.deepEqual(taken, ['ours', 'peer', 'ours', 'peer', 'ours', 'peer'])
  assert.deepEqual(
    runs.map(run => run.values.decode),
    [1, 2, 3, 4, 5, 6],
  )
  const alone = fakeBench()
  await takeRuns({ peer: 'none', names: ['sessions-8'] }, 2, [], alone.bench)
  assert.deepEqual(alone.taken, ['ours', 'ours'])
})

test('a void run is repeated and not kept; three in a row end it, unless every run shall count', async () => {
  const { bench, taken, kept, told } = fakeBench({ voids: [2, 3, 5] })
  const runs = await takeRuns(beside, 2, [], bench)
  assert.deepEqual(taken, ['ours', 'peer', 'peer', 'peer', 'ours', 'ours', 'peer'])
  assert.deepEqual(
    runs.map(run => run.values.decode),
    [1, 4, 6, 7],
  )
  assert.deepEqual(kept, runs)
  assert.equal(told.filter(remark => remark.startsWith('void: ')).length, 3)

  const never = fakeBench({ voids: [2, 3, 4] })
  await assert.rejects(takeRuns(beside, 2, [], never.bench), /^Error: 3 runs in a row were void: .* --noisy$/)
  assert.equal(never.taken.length, 1 + maxVoidRuns)
  assert.equal((await takeRuns(beside, 2, [], fakeBench({ voids: [1, 2, 3, 4] }).bench, true)).length, 4)
})

test('what was finished before a call was cut off is gone on with, once, by a call of the same key', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'tutti-kept-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 'runs.jsonl')
  const keptRuns = new KeptRuns(path, 'decode')
  const first = fakeBench({ cutAt: 3 })
  const keeping = { ...first.bench, keep: (run: Run) => keptRuns.keep(run) }
  await assert.rejects(takeRuns(beside, 3, keptRuns.runs, keeping), /cut off/)
  appendFileSync(path, '{"key":"dec') // cut off within a line
  new KeptRuns(path, 'start').keep(run('ours', { start: 2 }))

  const second = fakeBench()
  const runs = await takeRuns(beside, 3, new KeptRuns(path, 'decode').runs, second.bench)
  assert.deepEqual(second.taken, ['peer', 'ours', 'peer'])
  assert.deepEqual(second.told.slice(0, 3), ['kept', 'kept', 'kept'])
  assert.deepEqual(
    runs.map(run => run.values.decode),
    [1, 2, 3, 1, 2, 3],
  )
  keptRuns.end()
  assert.deepEqual(new KeptRuns(path, 'decode').runs, [])
  assert.equal(new KeptRuns(path, 'start').runs.length, 1)
})

test('llama-bench is asked for what is wanted and nothing else', () => {
  assert.deepEqual(benchTests(['decode', 'prefill-64', 'prefill-512']), ['-p', '64,512', '-n', '64'])
  assert.deepEqual(benchTests(['prefill-2048']), ['-p', '2048', '-n', '0'])
  assert.deepEqual(benchTests(['decode']), ['-p', '0', '-n', '64'])
  const rows = [
    { n_prompt: 64, n_gen: 0, samples_ts: [21.5] },
    { n_prompt: 0, n_gen: 64, samples_ts: [4.7] },
  ]
  assert.deepEqual(benchValues(['decode', 'prefill-64'], rows), { decode: 4.7, 'prefill-64': 21.5 })
  assert.throws(() => benchValues(['prefill-512'], rows), /printed nothing of prefill-512/)
})

test('the divergence of distributions is 0 between equal ones and has its textbook value elsewhere', () => {
  const logs = (...rows: number[]) => Float64Array.from(rows, Math.log)
  const p = logs(0.5, 0.5, 0.9, 0.1)
  assert.deepEqual(divergence(p, p, 2), { mean: 0, sameTop: 1 })
  const { mean, sameTop } = divergence(p, logs(0.5, 0.5, 0.1, 0.9), 2)
  assert.ok(Math.abs(mean - (0.8 * Math.log(9)) / 2) < 1e-12)
  assert.equal(sameTop, 0.5)
})
