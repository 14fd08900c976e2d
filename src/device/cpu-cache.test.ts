import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../base/random.ts'
import { CpuCache, PageStore, pageTokens } from './cpu-cache.ts'

/** Pages that hold one number for each token. */
class Pages {
  readonly held = new Map<number, number[]>()
  readonly store = new PageStore(this)
  readonly pageBytes = 100
  numCopies = 0
  #next = 0
  take(): number {
    this.held.set(this.#next, new Array(pageTokens).fill(Number.NaN))
    return this.#next++
  }
  give(page: number): void {
    assert.ok(this.held.delete(page), `page ${page} was given back twice`)
  }
  readonly tokenBytes = 8
  async readTokens(page: number, begin: number, into: Uint8Array): Promise<void> {
    const values = this.held.get(page)!.slice(begin, begin + into.length / 8)
    into.set(new Uint8Array(Float64Array.from(values).buffer))
  }
  writeTokens(page: number, begin: number, from: Uint8Array): void {
    const values = new Float64Array(from.slice().buffer)
    for (const [n, value] of values.entries()) this.held.get(page)![begin + n] = value
  }
  copy(from: number, to: number): void {
    this.numCopies++
    this.held.set(to, [...this.held.get(from)!])
  }
  /** What attention does with a cache: writes `values` from `start` on, but where something is held. */
  write(cache: CpuCache, start: number, values: readonly number[]): void {
    cache.prepare(start, values.length)
    for (const [n, value] of values.entries()) {
      if (start + n >= cache.length)
        this.#place(cache, start + n, ([page, slot]) => (this.held.get(page)![slot] = value))
    }
    cache.commit(start + values.length)
  }
  read(cache: CpuCache): number[] {
    const positions = Array.from({ length: cache.length - cache.first }, (_, n) => cache.first + n)
    return positions.map(position => this.#place(cache, position, ([page, slot]) => this.held.get(page)![slot]))
  }
  #place<T>(cache: CpuCache, position: number, use: (place: [page: number, slot: number]) => T): T {
    const place = position % cache.capacity
    return use([cache.pages[Math.floor(place / pageTokens)], place % pageTokens])
  }
}

const count = (from: number, to: number) => Array.from({ length: to - from }, (_, n) => from + n)

test('a fork takes no page before somebody writes into one that is shared, and then that one alone', () => {
  const pages = new Pages()
  const cache = new CpuCache(pages.store, Infinity, 8)
  pages.write(cache, 0, count(0, 200))
  const fork = cache.fork(150)
  assert.deepEqual([pages.store.numPages, pages.numCopies, pages.read(fork)], [4, 0, count(0, 150)])
  pages.write(fork, 150, [-1, -2])
  assert.deepEqual([pages.store.numPages, pages.numCopies], [5, 1])
  pages.write(cache, 200, [-3])
  assert.equal(pages.numCopies, 1, 'the last page was never shared')
  assert.deepEqual(pages.read(fork), [...count(0, 150), -1, -2])
  assert.deepEqual(pages.read(cache), [...count(0, 200), -3])
  cache.truncate(70)
  assert.equal(pages.store.numPages, 3, 'the fork holds what the other has given back')
  pages.write(cache, 70, [-4])
  assert.deepEqual([pages.store.numPages, pages.read(fork)[70]], [4, 70])
  cache.dispose()
  pages.write(fork, 152, [-5])
  assert.deepEqual([pages.store.numPages, pages.numCopies], [3, 2], 'whoever holds a page alone writes into it')
  fork.dispose()
  assert.deepEqual([pages.store.numPages, pages.held.size], [0, 0])
})

test('what is written again below a fork is kept, and copies nothing', () => {
  const pages = new Pages()
  const cache = new CpuCache(pages.store, Infinity, 8)
  pages.write(cache, 0, count(0, 128))
  const fork = cache.fork(128)
  pages.write(fork, 60, count(1060, 1068))
  assert.deepEqual([pages.numCopies, pages.read(fork)], [0, count(0, 128)])
})

test('a ring has whole pages, and a snapshot holds no more of them than two and what lies between', () => {
  const pages = new Pages()
  for (const maxChunk of [1, 33, 64, 200]) {
    const ring = new CpuCache(pages.store, 128, maxChunk)
    assert.equal(ring.capacity % pageTokens, 0)
    for (let to = 1; to < 1000; to += 1) {
      pages.write(ring, to - 1, [to - 1])
      const before = pages.store.numPages
      const snapshot = ring.snapshot(Math.max(0, to - 129), to)
      const most = Math.ceil((128 + pageTokens) / pageTokens)
      assert.ok(snapshot.pages.size <= most, `${snapshot.pages.size} pages`)
      assert.equal(pages.store.numPages, before)
      snapshot.dispose()
    }
    ring.dispose()
  }
  assert.equal(pages.held.size, 0)
})

test('rings restored from snapshots, restarted and written on read what was written, and nothing leaks', () => {
  for (let seed = 0; seed < 200; seed++) {
    const random = seededRandom(seed)
    const below = (n: number) => Math.floor(random() * n)
    const pages = new Pages()
    const maxChunk = 1 + below(100)
    const window = 1 + below(200)
    const isFull = seed % 3 === 0
    const rings = [{ cache: new CpuCache(pages.store, isFull ? Infinity : window, maxChunk), values: [] as number[] }]
    let snapshots: { snapshot: ReturnType<CpuCache['snapshot']>; values: number[] }[] = []
    for (let i = 0; i < 40; i++) {
      const ring = rings[below(rings.length)]
      const { cache } = ring
      const what = random()
      if (what < 0.5) {
        const added = Array.from({ length: 1 + below(maxChunk) }, () => random())
        const from = random() < 0.7 ? cache.length : cache.first + below(cache.length - cache.first + 1)
        pages.write(cache, from, added)
        ring.values.push(...added.slice(ring.values.length - from))
      } else if (what < 0.6) {
        const to = cache.first + below(cache.length - cache.first + 1)
        cache.truncate(to)
        ring.values.length = to
      } else if (what < 0.7 && rings.length < 4) {
        const to = isFull ? below(cache.length + 1) : 0
        rings.push({ cache: cache.fork(to), values: ring.values.slice(0, to) })
      } else if (what < 0.8 && !isFull && cache.length > cache.first) {
        const first = cache.first + below(cache.length - cache.first)
        const snapshot = cache.snapshot(first, first + 1 + below(cache.length - first))
        snapshots.push({ snapshot, values: [...ring.values] })
      } else if (what < 0.9 && snapshots.length > 0) {
        const { snapshot, values } = snapshots[below(snapshots.length)]
        cache.restore(snapshot)
        ring.values = values.slice(0, snapshot.length)
      } else if (what < 0.93 && !isFull) {
        cache.restart(cache.length)
      } else if (what < 0.96 && rings.length > 1) {
        cache.dispose()
        rings.splice(rings.indexOf(ring), 1)
      } else if (snapshots.length > 0) {
        snapshots[0].snapshot.dispose()
        snapshots = snapshots.slice(1)
      }
      for (const { cache, values } of rings) {
        assert.deepEqual(pages.read(cache), values.slice(cache.first, cache.length), `seed ${seed}, step ${i}`)
      }
    }
    for (const { cache } of rings) cache.dispose()
    for (const { snapshot } of snapshots) snapshot.dispose()
    assert.deepEqual([pages.held.size, pages.store.numPages], [0, 0], `seed ${seed}`)
  }
})
