import assert from 'node:assert/strict'
import { test } from 'node:test'
import { randomModel, smallConfig } from '../engine/testing.ts'
import type { LayerCache } from '../kernels/ops.ts'
import { KvCache } from './kv-cache.ts'

/** A layer that holds no numbers, only the bounds: rings of this capacity, or everything. */
class Bounds implements LayerCache {
  first = 0
  length = 0
  disposed = false
  readonly window: number
  readonly #capacity: number
  constructor(window: number, capacity = Infinity) {
    this.window = window
    this.#capacity = capacity
  }
  /** What attention does. */
  write(position: number): void {
    if (position >= this.length) this.first = Math.max(this.first, position + 1 - this.#capacity)
  }
  commit(length: number): void {
    this.length = Math.max(this.length, length)
  }
  truncate(length: number): void {
    this.length = Math.min(this.length, length)
  }
  restart(position: number): void {
    this.first = position
    this.length = position
  }
  dispose(): void {
    this.disposed = true
  }
}

/** Two windowed layers of 10 and 10 and two full ones; rings for chunks of up to 5. The windows reach back 18 tokens. */
function newCache() {
  const layers = [new Bounds(10, 14), new Bounds(Infinity), new Bounds(10, 14), new Bounds(Infinity)]
  const cache = new KvCache(layers, 5)
  const run = (from: number, to: number, chunk = 5) => {
    for (let at = from; at < to; at += chunk) {
      const end = Math.min(at + chunk, to)
      for (let p = at; p < end; p++) for (const layer of layers) layer.write(p)
      cache.commit(end)
    }
  }
  return { cache, layers, run }
}

test('an empty cache begins at 0', () => {
  const { cache } = newCache()
  assert.equal(cache.length, 0)
  assert.equal(cache.rewind(0), 0)
})

/** Back from 100 tokens; the rings then hold 86 to 99. */
const rewinds = [
  { name: 'nothing is lost where nothing is cut', to: 100, from: 100 },
  { name: 'what the ring still holds is free', to: 95, from: 95 },
  { name: 'one token further the windows begin anew', to: 94, from: 94 - 18 },
  { name: 'far back', to: 50, from: 50 - 18 },
  { name: 'no token is before the first', to: 18, from: 0 },
  { name: 'near the beginning', to: 3, from: 0 },
  { name: 'to the beginning', to: 0, from: 0 },
]
for (const { name, to, from } of rewinds) {
  test(`rewinding from 100 to ${to} resumes at ${from}: ${name}`, () => {
    const { cache, layers, run } = newCache()
    run(0, 100)
    assert.equal(cache.rewind(to), from)
    assert.equal(cache.length, to)
    assert.deepEqual(
      layers.map(layer => layer.length),
      [from, to, from, to],
    )
  })
}

test('what was forgotten cannot be asked for again, and no position is beyond', () => {
  const { cache, run } = newCache()
  run(0, 40)
  cache.rewind(20)
  for (const position of [21, 40, Number.NaN]) assert.throws(() => cache.rewind(position), RangeError)
  assert.equal(cache.length, 20)
})

test('windows that are run again do not shorten what the full layers hold', () => {
  const { cache, run } = newCache()
  run(0, 100)
  assert.equal(cache.rewind(60), 42)
  run(42, 47)
  assert.equal(cache.length, 60)
  assert.equal(cache.rewind(60), 47, 'an interrupted rebuild goes on')
  run(47, 70)
  assert.equal(cache.length, 70)
})

test('windows that began empty are not used before they are exact, however much they hold', () => {
  const { cache, run } = newCache()
  run(0, 100)
  assert.equal(cache.rewind(60), 42)
  run(42, 63)
  assert.equal(cache.rewind(60), 60, 'exact from 60 on')
  assert.equal(cache.rewind(59), 41, 'the rings hold what 59 sees, computed without its past')
})

test('windows that began at the first token are exact everywhere', () => {
  const { cache, run } = newCache()
  run(0, 100)
  assert.equal(cache.rewind(12), 0)
  run(0, 14)
  assert.equal(cache.rewind(9), 9)
})

test('an interrupted rebuild left for an earlier place begins anew there', () => {
  const { cache, run } = newCache()
  run(0, 100)
  cache.rewind(60)
  run(42, 57)
  assert.equal(cache.rewind(50), 32)
})

test('disposing frees every layer', () => {
  const { cache, layers } = newCache()
  cache.dispose()
  assert.ok(layers.every(layer => layer.disposed))
})

test('a chunk larger than the windows were made for is refused, not half remembered', async () => {
  const model = await randomModel(smallConfig)
  const cache = model.newCache(4)
  const pass = model.forward([{ cache, tokens: [1, 2, 3, 4, 5], start: 0, logits: 'none' }])
  await assert.rejects(pass, /chunk of 5 tokens is more than the 4/)
})
