import assert from 'node:assert/strict'
import { test } from 'node:test'
import { row } from './download-row.ts'

test(`${row.title}: nothing gets its name unverified, and nothing begins from zero`, async () => {
  const { n, failures } = await row.run({ long: true, quick: false, seed: 1 })
  assert.ok(n >= 2000, `${n} cases`)
  assert.deepEqual(failures, [])
})
