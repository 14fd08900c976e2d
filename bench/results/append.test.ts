import assert from 'node:assert/strict'
import { test } from 'node:test'
import { columns, row } from './append.ts'

const now = { date: '2026-11-25', commit: 'abcdef0' }

test('a measure beside a peer is a row, its details in the last cell', () => {
  const line = {
    ...{
      measure: 'sessions-8',
      ours: 25,
      peer: 12,
      ratio: 2.083,
      limit: 30.2,
      unit: 'tokens/s',
      cpu: 'a CPU, 2 cores',
    },
    ...{ against: 'sessions-1', spread: { ours: [24, 26], peer: [12, 12] }, plainRead: [29, 31], rounds: 3 },
    ...{
      date: '2026-11-24',
      commit: '0123456789ab',
      options: { cache: 'q8' },
      model: 'random',
      more: { distinctExperts: 21.2 },
    },
  }
  assert.equal(
    row(line, now),
    '2026-11-24,0123456,sessions-8,25,12,sessions-1,2.083,30.2,tokens/s,24–26,12–12,29–31,model random; rounds 3; cache q8; distinctExperts 21.2',
  )
})

test('a figure of tutti bench is one too, and what it does not say stays empty', () => {
  const about = { model: 'gpt-oss-20b', device: 'cpu (avx2, 2 threads, fast)', cache: 'bf16', cpu: 'a CPU' }
  const line = { what: 'decode behind 2048', value: 9.87654321, unit: 'tokens/s', limit: 11.23456, ...about }
  const text = row(line, now)
  assert.ok(
    text.startsWith('2026-11-25,abcdef0,decode behind 2048,9.877,,,,11.23,tokens/s,,,,"model gpt-oss-20b; '),
    text,
  )
  assert.ok(row({ ...line, limit: undefined, note: 'a "b"' }, now).endsWith('; note a ""b"""'))
  assert.equal(columns.length, 13)
})
