import assert from 'node:assert/strict'
import { test } from 'node:test'
import { timeLeft } from './time-left.ts'

test('what is left takes as long as what is done took', () => {
  let now = 5000
  const left = timeLeft(() => now)
  assert.equal(left(0, 100), undefined)
  now += 500
  assert.equal(left(50, 100), undefined) // too early to tell
  now += 1500
  assert.equal(left(50, 100), 2)
  assert.equal(left(100, 100), 0)
  now += 8000
  assert.equal(left(50, 100), 10)
  assert.equal(left(0, 100), undefined)
})
