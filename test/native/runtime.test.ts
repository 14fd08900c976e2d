import assert from 'node:assert/strict'
import { test } from 'node:test'
import { obstacle, runHarness, sanitizers } from './harness.ts'

const flags = [...sanitizers['data races'], '-g', '-Wall', '-Wextra', '-Werror']
const skip = (await obstacle(flags)) ?? false

// Addresses and undefined behaviour are watched by row 30 of the board.
test('threads, memory and programs bear storms, stops at any moment and hostile words, watched for data races', {
  skip,
}, async () => {
  const { cases, failures } = await runHarness('runtime', flags)
  assert.deepEqual(failures, [])
  assert.ok(cases > 0)
})
