import assert from 'node:assert/strict'
import { test } from 'node:test'
import { AsyncQueue } from './async-queue.ts'

const isPending = async (promise: Promise<unknown>) => {
  const pending = Symbol('pending')
  return (await Promise.race([promise, new Promise(resolve => setImmediate(resolve, pending))])) === pending
}

test('values come in the order in which they were pushed', async () => {
  const queue = new AsyncQueue<number>()
  for (let i = 0; i < 3; i++) queue.push(i)
  for (let i = 0; i < 3; i++) assert.deepEqual(await queue.next(), { done: false, value: i })
})

test('next waits for a value', async () => {
  const queue = new AsyncQueue<string>()
  const next = queue.next()
  assert.equal(await isPending(next), true)
  queue.push('late')
  assert.deepEqual(await next, { done: false, value: 'late' })
})

test('undefined is a value like any other', async () => {
  const queue = new AsyncQueue<undefined>()
  queue.push(undefined)
  assert.deepEqual(await queue.next(), { done: false, value: undefined })
})

test('the end comes after what was pushed, and again and again', async () => {
  const queue = new AsyncQueue<number>()
  queue.push(1)
  queue.end()
  queue.push(2)
  assert.deepEqual(await queue.next(), { done: false, value: 1 })
  assert.deepEqual(await queue.next(), { done: true, value: undefined })
  assert.deepEqual(await queue.next(), { done: true, value: undefined })
})

for (const error of [new Error('no'), null, undefined]) {
  test(`failing with ${error} rejects after what was pushed, and again and again`, async () => {
    const queue = new AsyncQueue<number>()
    queue.push(1)
    queue.fail(error)
    queue.end()
    assert.deepEqual(await queue.next(), { done: false, value: 1 })
    for (let i = 0; i < 2; i++) await assert.rejects(queue.next(), caught => caught === error || error === undefined)
  })
}

test('a waiting next hears of the end and of a failure', async () => {
  const ending = new AsyncQueue<number>()
  const ended = ending.next()
  ending.end()
  assert.deepEqual(await ended, { done: true, value: undefined })
  const failing = new AsyncQueue<number>()
  const failed = failing.next()
  failing.fail(new RangeError('gone'))
  await assert.rejects(failed, RangeError)
})

test('200,000 values that nobody reads are read in linear time', async () => {
  const queue = new AsyncQueue<number>()
  for (let i = 0; i < 200_000; i++) queue.push(i)
  queue.end()
  let sum = 0
  for (let next = await queue.next(); !next.done; next = await queue.next()) sum += next.value
  assert.equal(sum, (200_000 * 199_999) / 2)
})
