import assert from 'node:assert/strict'
import { test } from 'node:test'
import { randomModel, smallConfig } from '../engine/testing.ts'
import type { LayerCache, LayerSnapshot } from '../kernels/ops.ts'
import { KvCache, maxSnapshots, snapshotTokens } from './kv-cache.ts'

/** A layer that holds no numbers, only the bounds: rings of this capacity, or everything. */
class Bounds implements LayerCache {
  first = 0
  length = 0
  holdsMemory = false
  readonly window: number
  /** Those of all forks. */
  readonly snapshots: Set<LayerSnapshot>
  readonly #capacity: number
  constructor(window: number, capacity = Infinity, snapshots = new Set<LayerSnapshot>()) {
    this.window = window
    this.#capacity = capacity
    this.snapshots = snapshots
  }
  /** What attention does. */
  write(position: number): void {
    if (position >= this.length) this.first = Math.max(this.first, position + 1 - this.#capacity)
    this.holdsMemory = true
  }
  commit(length: number): void {
    this.length = Math.max(this.length, length)
  }
  truncate(length: number): void {
    this.length = Math.min(this.length, length)
  }
  restart(position: number): void {
    this.holdsMemory = false
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
    this.holdsMemory = true
    this.first = snapshot.first
    this.length = snapshot.length
  }
  growth(): number {
    return 0
  }
  fork(length: number): Bounds {
    const fork = new Bounds(this.window, this.#capacity, this.snapshots)
    if (Number.isFinite(this.window)) return fork
    assert.ok(length <= this.length)
    fork.length = length
    fork.holdsMemory = length > 0
    return fork
  }
  readonly tokenBytes = 1
  /** The positions, as bytes. */
  async save(first: number, length: number): Promise<Uint8Array> {
    assert.ok(this.first <= first && length <= this.length)
    return Uint8Array.from({ length: length - first }, (_, n) => first + n)
  }
  load(bytes: Uint8Array): void {
    for (const position of bytes) {
      assert.equal(position, this.length)
      this.write(position)
      this.commit(position + 1)
    }
  }
  dispose(): void {
    this.holdsMemory = false
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
  cache.mark(32)
  run(35, 40)
  assert.deepEqual(kept(), [32], 'one for both')
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
  const positions = [60, 61, 62]
  for (const to of [60, 61, 62]) {
    const { cache, layers, kept } = marked(positions)
    assert.deepEqual(kept(), [62])
    assert.deepEqual([...layers[2].snapshots][0].first, 60 - 9)
    assert.equal(cache.rewind(to), to)
  }
  const { cache, runTo } = marked(positions)
  cache.rewind(61)
  runTo(100)
  assert.equal(cache.rewind(60), 60, 'what was cut off it does not take the rest away')
  assert.deepEqual(marked([57, 60, 62, 63]).kept(), [57, 62, 63], 'none grows longer than was planned')
  assert.equal(snapshotTokens(10), 62 - (60 - 9))
})

test('of too many marks the one that spares the fewest tokens goes, of equals the oldest, never the newest', () => {
  assert.equal(maxSnapshots, 4)
  assert.deepEqual(marked([20, 40, 60, 80, 100]).kept(), [40, 60, 80, 100])
  assert.deepEqual(marked([20, 40, 50, 80, 100]).kept(), [20, 40, 80, 100])
  assert.deepEqual(marked([20, 40, 60, 80, 90]).kept(), [40, 60, 80, 90])
  assert.deepEqual(marked([9, 40, 60, 80, 100]).kept(), [40, 60, 80, 100], 'near the beginning little is spared')
})

for (const { name, to, from } of markedRewinds) {
  test(`a fork of 100 tokens at ${to}, with marks at 30 and 62, resumes at ${from} too: ${name}`, () => {
    const { cache, layers } = marked([30, 62])
    assert.equal(cache.cost(to), to - from)
    const fork = cache.fork(to)
    assert.deepEqual([fork.length, fork.cost(to)], [to, to - from])
    assert.deepEqual(holding(fork.layers), [false, true, false, true], 'its rings are empty')
    assert.equal(fork.rewind(to), from)
    assert.deepEqual(
      fork.layers.map(layer => layer.length),
      [from, to, from, to],
    )
    assert.deepEqual(
      layers.map(layer => layer.length),
      [100, 100, 100, 100],
      'the other stays as it was',
    )
    assert.deepEqual([cache.cost(100), cache.cost(62), cache.cost(30)], [0, 0, 0])
  })
}

const holding = (layers: readonly LayerCache[]) => layers.map(layer => (layer as Bounds).holdsMemory)

test('nothing beyond what is held can be forked, and nothing tells its cost', () => {
  const { cache, run } = newCache()
  run(0, 40)
  for (const position of [41, Number.NaN]) {
    assert.throws(() => cache.fork(position), RangeError)
    assert.throws(() => cache.cost(position), RangeError)
  }
  assert.equal(cache.fork(0).rewind(0), 0)
})

test('forks and forks of forks hold snapshots together, each as far as its own tokens reach, until the last is gone', () => {
  const { cache, layers, kept } = marked([30, 60, 61])
  const fork = cache.fork(60)
  const other = fork.fork(45)
  assert.deepEqual([kept(), layers[2].snapshots.size], [[30, 61], 2], 'none is copied')
  assert.deepEqual([fork.rewind(60), other.rewind(45), fork.cost(30), other.cost(30)], [60, 30, 0, 0])
  cache.dispose()
  assert.deepEqual(kept(), [30, 61])
  fork.rewind(20)
  assert.deepEqual(kept(), [30])
  fork.dispose()
  assert.equal(other.rewind(40), 30)
  other.dispose()
  assert.deepEqual(kept(), [])
})

test('what a ring still holds is kept for a fork alone, which may forget another mark for it', () => {
  const { cache, kept } = marked([20, 40, 60, 80])
  const fork = cache.fork(97)
  assert.deepEqual(kept(), [20, 40, 60, 80, 97])
  assert.deepEqual([fork.cost(97), fork.cost(80), fork.cost(20)], [0, 0, 18])
  assert.deepEqual([cache.cost(97), cache.cost(20)], [0, 0])
  fork.dispose()
  assert.deepEqual(kept(), [20, 40, 60, 80])
})

test('a fork of windows that are being run again begins them anew: they are not exact', () => {
  const { cache, run } = newCache()
  run(0, 100)
  cache.rewind(60)
  run(42, 47)
  assert.equal(cache.cost(60), 13)
  assert.equal(cache.fork(60).rewind(60), 42)
})

test('a cache at rest holds no ring, and goes on where it stood', () => {
  const { cache, layers, run } = newCache()
  run(0, 100)
  cache.rest()
  assert.deepEqual(holding(layers), [false, true, false, true])
  assert.deepEqual([cache.length, cache.cost(100), cache.cost(95), cache.cost(0)], [100, 0, 18, 0])
  assert.equal(cache.fork(100).rewind(100), 100)
  cache.rest()
  assert.equal(cache.rewind(100), 100)
  run(100, 110)
  assert.deepEqual([cache.rewind(105), cache.rewind(100)], [105, 100])
})

/** Windows that hold nothing, or not yet all, and where running must resume for 60. */
const emptied: { name: string; prepare(made: ReturnType<typeof newCache>): void; from: number }[] = [
  {
    name: 'were put to rest before they were exact again',
    from: 42,
    prepare({ cache, run }) {
      run(0, 100)
      cache.rewind(60)
      run(42, 47)
      cache.rest()
    },
  },
  {
    name: 'were put to rest, their mark cut off',
    from: 42,
    prepare({ cache, run }) {
      run(0, 100)
      cache.rest()
    },
  },
  {
    name: 'were put to rest near the beginning',
    from: 60,
    prepare({ cache, run }) {
      run(0, 60)
      cache.rest()
    },
  },
]
for (const { name, prepare, from } of emptied) {
  test(`windows that ${name} resume at ${from} for 60, never at 0`, () => {
    const made = newCache()
    prepare(made)
    assert.equal(made.cache.cost(60), 60 - from)
    assert.equal(made.cache.rewind(60), from)
  })
}

test('disposing frees every layer and snapshot', () => {
  const { cache, layers } = marked([30, 60])
  cache.dispose()
  assert.ok(layers.every(layer => !layer.holdsMemory && layer.snapshots.size === 0))
})

test('a chunk larger than the windows were made for is refused, not half remembered', async () => {
  const model = await randomModel(smallConfig)
  const cache = model.newCache(4)
  const pass = model.forward([{ cache, tokens: [1, 2, 3, 4, 5], start: 0, logits: 'none' }])
  await assert.rejects(pass, /chunk of 5 tokens is more than the 4/)
})
