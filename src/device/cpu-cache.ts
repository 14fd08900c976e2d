import type { LayerCache, LayerSnapshot } from '../kernels/ops.ts'

/** Positions that a page holds; PAGE_TOKENS in src/kernels/cpu.h. */
export const pageTokens = 64

export interface PageSource {
  /** What a page takes, with its share of what lies between pages. */
  readonly pageBytes: number
  take(): number
  give(page: number): void
  copy(from: number, to: number): void
  /** Bytes of a token, as `readTokens` gives them. */
  readonly tokenBytes: number
  /** Tokens of a page from slot `begin` on, as many as `into` holds, once nothing is writing it. */
  readTokens(page: number, begin: number, into: Uint8Array): Promise<void>
  /** Of a page that was just taken, or that nothing uses. */
  writeTokens(page: number, begin: number, from: Uint8Array): void
}

/**
 * Pages of one size, each held by one or more caches and snapshots. Passes that use a page keep its memory until they have
 * ended, so a page can be given back at any time.
 */
export class PageStore {
  readonly #source: PageSource
  readonly #numHolders = new Map<number, number>() // by page

  constructor(source: PageSource) {
    this.#source = source
  }

  get numPages(): number {
    return this.#numHolders.size
  }

  /** Bytes of so many pages, or of all that are held. */
  bytes(numPages = this.numPages): number {
    return Math.ceil(numPages * this.#source.pageBytes)
  }

  isShared(page: number): boolean {
    return this.#numHolders.get(page)! > 1
  }

  take(): number {
    const page = this.#source.take()
    this.#numHolders.set(page, 1)
    return page
  }

  /** The same page for one holder more. */
  share(page: number): number {
    this.#numHolders.set(page, this.#numHolders.get(page)! + 1)
    return page
  }

  /** What a holder writes into in place of its page: a copy, if others hold that too. */
  own(page: number): number {
    if (this.#numHolders.get(page) === 1) return page
    const copy = this.take()
    this.copy(page, copy)
    this.give([page])
    return copy
  }

  copy(from: number, to: number): void {
    this.#source.copy(from, to)
  }

  get tokenBytes(): number {
    return this.#source.tokenBytes
  }

  readTokens(page: number, begin: number, into: Uint8Array): Promise<void> {
    return this.#source.readTokens(page, begin, into)
  }

  writeTokens(page: number, begin: number, from: Uint8Array): void {
    this.#source.writeTokens(page, begin, from)
  }

  give(pages: Iterable<number>): void {
    for (const page of pages) {
      const numOthers = this.#numHolders.get(page)! - 1
      if (numOthers > 0) {
        this.#numHolders.set(page, numOthers)
      } else {
        this.#numHolders.delete(page)
        this.#source.give(page)
      }
    }
  }
}

/**
 * Keys and values of one sequence in one layer: a list of pages, which grows as the sequence does. Forks and snapshots
 * hold the same pages: whoever is about to write into one that others hold too writes into a copy.
 */
export class CpuCache implements LayerCache {
  readonly window: number
  /** Positions p and p + capacity share a place. */
  readonly capacity: number
  readonly pages: number[] = []
  first = 0
  length = 0
  readonly #store: PageStore
  readonly #maxChunk: number

  constructor(store: PageStore, window: number, maxChunk: number) {
    this.#store = store
    this.window = window
    this.#maxChunk = maxChunk
    // A chunk of n tokens needs the window − 1 before its first token, and itself. A ring has whole pages.
    this.capacity = Math.ceil((window - 1 + maxChunk) / pageTokens) * pageTokens
  }

  /** Makes room for `count` positions from `start` on; those from `length` on are about to be written. */
  prepare(start: number, count: number): void {
    const end = start + count
    if (end > this.length) this.first = Math.max(this.first, end - this.capacity)
    // A ring is made whole when a position first lies beyond its end; before that, and in full layers, positions are places.
    const numPlaces = Math.min(end, this.capacity)
    const wanted = Math.ceil(numPlaces / pageTokens)
    while (this.pages.length < wanted) this.pages.push(this.#store.take())
    for (const index of this.#indices(Math.max(start, this.length), end)) {
      this.pages[index] = this.#store.own(this.pages[index])
    }
  }

  /** The pages, by their index, in which positions from `from` up to `to` lie. */
  #indices(from: number, to: number): Set<number> {
    const indices = new Set<number>()
    for (let p = from; p < to; p++) indices.add(Math.floor((p % this.capacity) / pageTokens))
    return indices
  }

  /** Lengthens the cache by copies of its first page, for timing: what it holds makes no difference to speed. */
  repeat(length: number): void {
    this.prepare(this.length, length - this.length)
    for (const page of this.pages.slice(1)) this.#store.copy(this.pages[0], page)
    this.length = length
  }

  growth(length: number): number {
    const numPages = Math.ceil(Math.min(length, this.capacity) / pageTokens)
    const written = [...this.#indices(Math.max(this.length, length - this.capacity), length)]
    const numCopies = written.filter(
      index => index < this.pages.length && this.#store.isShared(this.pages[index]),
    ).length
    return this.#store.bytes(Math.max(0, numPages - this.pages.length) + numCopies)
  }

  commit(length: number): void {
    this.length = Math.max(this.length, length)
  }

  truncate(length: number): void {
    this.length = Math.min(this.length, length)
    if (!Number.isFinite(this.capacity)) this.#store.give(this.pages.splice(Math.ceil(this.length / pageTokens)))
  }

  restart(position: number): void {
    this.dispose()
    this.first = position
    this.length = position
  }

  snapshot(first: number, length: number): CpuSnapshot {
    const pages = new Map<number, number>()
    for (const index of this.#indices(first, length)) pages.set(index, this.#store.share(this.pages[index]))
    return { first, length, pages, dispose: () => this.#store.give(pages.values()) }
  }

  restore({ first, length, pages }: CpuSnapshot): void {
    for (const [index, page] of pages) {
      while (this.pages.length <= index) this.pages.push(this.#store.take())
      this.#store.give([this.pages[index]])
      this.pages[index] = this.#store.share(page)
    }
    this.first = first
    this.length = length
  }

  fork(length: number): CpuCache {
    const fork = new CpuCache(this.#store, this.window, this.#maxChunk)
    if (Number.isFinite(this.capacity)) return fork
    const pages = this.pages.slice(0, Math.ceil(length / pageTokens))
    fork.pages.push(...pages.map(page => this.#store.share(page)))
    fork.length = length
    return fork
  }

  get tokenBytes(): number {
    return this.#store.tokenBytes
  }

  async save(first: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array((length - first) * this.tokenBytes)
    const places = [...this.#places(first, length, bytes)] // now: a pass may change pages later
    for (const { page, slot, bytes } of places) await this.#store.readTokens(page, slot, bytes)
    return bytes
  }

  load(bytes: Uint8Array): void {
    const { length } = this
    const end = length + bytes.length / this.tokenBytes
    this.prepare(length, end - length)
    for (const { page, slot, bytes: some } of this.#places(length, end, bytes))
      this.#store.writeTokens(page, slot, some)
    this.commit(end)
  }

  /** The parts of pages in which positions from `first` up to `length` lie, each with its share of their bytes. */
  *#places(
    first: number,
    length: number,
    bytes: Uint8Array,
  ): Generator<{ page: number; slot: number; bytes: Uint8Array }> {
    for (let p = first; p < length; ) {
      const place = p % this.capacity
      const slot = place % pageTokens
      const end = Math.min(length, p + pageTokens - slot)
      const some = bytes.subarray((p - first) * this.tokenBytes, (end - first) * this.tokenBytes)
      yield { page: this.pages[Math.floor(place / pageTokens)], slot, bytes: some }
      p = end
    }
  }

  dispose(): void {
    this.#store.give(this.pages.splice(0))
  }
}

/** Whole pages, by their place in the ring. */
interface CpuSnapshot extends LayerSnapshot {
  readonly pages: ReadonlyMap<number, number>
}
