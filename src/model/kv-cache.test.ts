import assert from 'node:assert/strict'
import { test } from 'node:test'
import { randomModel, smallConfig } from '../engine/testing.ts'
import type { LayerCache, LayerSnapshot } from '../kernels/ops.ts'
import { KvCache, maxSnapshots } from './kv-cache.ts'

/** A layer that holds no numbers, only the bounds: rings of this capacity, or everything. */
class Bounds implements LayerCache {
  first = 0
  length = 0
  disposed = false
  readonly snapshots = new Set<LayerSnapshot>()
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
  snapshot(first: number, length: number): LayerSnapshot {
    assert.ok(this.first <= first && first < length && length <= this.length)
    const snapshot = { first, length, dispose: () => void this.snapshots.delete(snapshot) }
    this.snapshots.add(snapshot)
    return snapshot
  }
  restore(snapshot: LayerSnapshot): void {
    assert.ok(this.snapshots.has(snapshot))
    this.first = snapshot.first
    this.length = snapshot.length
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

/** Runs to 100 with a mark at each of these positions, taken once the chunk that reaches it is through. */
function marked(positions: number[]) {
  const { cache, layers, run } = newCache()
  const runTo = (to: number, from = cache.length) => {
    for (let at = from; at < to; at += 5) {
      run(at, Math.min(at + 5, to))
      for (const mark of positions) if (mark > at && mark <= at + 5) cache.mark(mark)
    }
  }
  runTo(100)
  return { cache, layers, run, runTo, kept: () => [...layers[0].snapshots].map(({ length }) => length) }
}

/** Back from 100 tokens with marks at 30 and 62. */
const markedRewinds = [
  { name: 'a mark costs nothing', to: 62, from: 62 },
  { name: 'behind a mark runs what lies between', to: 70, from: 62 },
  { name: 'far behind it the windows begin anew', to: 81, from: 81 - 18 },
  { name: 'before it an earlier one counts', to: 47, from: 30 },
  { name: 'before all of them the windows begin anew', to: 29, from: 29 - 18 },
  { name: 'what the ring still holds needs no mark', to: 95, from: 95 },
]
for (const { name, to, from } of markedRewinds) {
  test(`rewinding from 100 to ${to} with marks at 30 and 62 resumes at ${from}: ${name}`, () => {
    const { cache, layers } = marked([30, 62])
    assert.equal(cache.rewind(to), from)
    assert.deepEqual(
      layers.map(layer => layer.length),
      [from, to, from, to],
    )
  })
}

test('a mark can be gone back to again and again, until what lies before it changes', () => {
  const { cache, runTo, kept } = marked([30, 62])
  for (let i = 0; i < 3; i++) {
    assert.equal(cache.rewind(62), 62)
    runTo(100)
  }
  assert.equal(cache.rewind(61), 61 - 18)
  assert.deepEqual(kept(), [30])
  runTo(61, 61 - 18)
  assert.equal(cache.rewind(61), 61)
})

test('windows that were restored are exact wherever they hold enough, and can be marked there', () => {
  const { cache, run, runTo, kept } = marked([30])
  assert.equal(cache.rewind(40), 30)
  run(30, 35)
  assert.equal(cache.rewind(40), 35, 'an interrupted run goes on')
  cache.mark(35)
  run(35, 40)
  assert.deepEqual(kept(), [35], 'one for both')
  runTo(100)
  assert.equal(cache.rewind(31), 31)
})

test('nothing is marked where nothing has run, where the ring has lost it, and where windows are not exact yet', () => {
  const { cache, run, kept } = marked([])
  for (const position of [0, 94, 101, 200]) cache.mark(position)
  assert.deepEqual(kept(), [])
  cache.rewind(60)
  run(42, 59)
  for (const position of [50, 59]) cache.mark(position)
  assert.deepEqual(kept(), [])
  run(59, 62)
  cache.mark(59)
  assert.deepEqual(kept(), [])
  cache.mark(60)
  assert.deepEqual(kept(), [60])
})

test('marks close together share a snapshot, which serves all that lies between', () => {
  const positions = [60, 61, 63]
  for (const to of [60, 61, 62, 63]) {
    const { cache, layers, kept } = marked(positions)
    assert.deepEqual(kept(), [63])
    assert.deepEqual([...layers[2].snapshots][0].first, 60 - 9)
    assert.equal(cache.rewind(to), to)
  }
  const { cache, runTo } = marked(positions)
  cache.rewind(61)
  runTo(100)
  assert.equal(cache.rewind(60), 60, 'what was cut off it does not take the rest away')
})

test('of too many marks the one that spares the fewest tokens goes, of equals the oldest, never the newest', () => {
  assert.equal(maxSnapshots, 4)
  assert.deepEqual(marked([20, 40, 60, 80, 100]).kept(), [40, 60, 80, 100])
  assert.deepEqual(marked([20, 40, 50, 80, 100]).kept(), [20, 40, 80, 100])
  assert.deepEqual(marked([20, 40, 60, 80, 90]).kept(), [40, 60, 80, 90])
  assert.deepEqual(marked([9, 40, 60, 80, 100]).kept(), [40, 60, 80, 100], 'near the beginning little is spared')
})

test('disposing frees every layer and snapshot', () => {
  const { cache, layers } = marked([30, 60])
  cache.dispose()
  assert.ok(layers.every(layer => layer.disposed && layer.snapshots.size === 0))
})

test('a chunk larger than the windows were made for is refused, not half remembered', async () => {
  const model = await randomModel(smallConfig)
  const cache = model.newCache(4)
  const pass = model.forward([{ cache, tokens: [1, 2, 3, 4, 5], start: 0, logits: 'none' }])
  await assert.rejects(pass, /chunk of 5 tokens is more than the 4/)
})
