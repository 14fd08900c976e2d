import assert from 'node:assert/strict'
import { test } from 'node:test'
import { publishedConfig } from '../../scripts/make-checkpoint.ts'
import { divergence } from './divergence.ts'
import { benchTests, benchValues } from './ik.ts'
import { bytesPerToken } from './limit.ts'
import { allNames, groupsOf, isVoid, type Run, resultOf, usualNames } from './rounds.ts'

const run = (side: Run['side'], values: Run['values'], plainRead: Run['plainRead'] = [30e9, 29e9]): Run => {
  return { side, values, plainRead }
}
const machine = { cpu: 'a CPU', limit: 12.34567 }

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
    ['prefill-8192', 'prefill-8192-ik'],
  )
})

test('a run is void where plain reads changed by more than a tenth, up or down', () => {
  assert.equal(isVoid(run('ours', {}, [30e9, 27.1e9])), false)
  assert.equal(isVoid(run('ours', {}, [30e9, 26.9e9])), true)
  assert.equal(isVoid(run('ours', {}, [30e9, 33.1e9])), true)
})

test('a result has medians, their ratio with better above 1, the spread, and for decode the limit', () => {
  const runs = [
    run('ours', { decode: 10, start: 2 }),
    run('peer', { decode: 5, start: 20 }, [31e9, 30e9]),
    run('ours', { decode: 11, start: 3 }),
    run('peer', { decode: 6, start: 10 }),
    run('ours', { decode: 99, start: 1 }),
    run('peer', { decode: 5.5, start: 12 }),
  ]
  assert.deepEqual(resultOf('decode', 'node-llama-cpp', runs, machine), {
    measure: 'decode',
    ours: 11,
    peer: 5.5,
    ratio: 2,
    limit: 12.35,
    unit: 'tokens/s',
    cpu: 'a CPU',
    spread: { ours: [10, 99], peer: [5, 6] },
    plainRead: [29, 31],
    rounds: 3,
  })
  const start = resultOf('start', 'ik_llama.cpp', runs, machine)
  assert.deepEqual([start.measure, start.ours, start.peer, start.ratio], ['start-ik', 2, 12, 6])
  assert.equal(start.limit, null)
})

test('many sessions and a long context are compared with ourselves', () => {
  const runs = [
    run('ours', { 'sessions-8': 24, 'sessions-1': 12 }),
    run('ours', { 'sessions-8': 26, 'sessions-1': 12 }),
  ]
  const result = resultOf('sessions-8', 'none', runs, machine)
  assert.deepEqual([result.ours, result.peer, result.ratio], [25, 12, 2.083])
})

test('a token of gpt-oss-20b reads 2.56 GB', () => {
  const { experts, matrices } = bytesPerToken(publishedConfig('20b'))
  assert.equal((experts / 1e9).toFixed(2), '1.27')
  assert.equal((matrices / 1e9).toFixed(2), '1.29')
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
