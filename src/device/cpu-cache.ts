import type { LayerCache, LayerSnapshot } from '../kernels/ops.ts'

/** Positions that a page holds; PAGE_TOKENS in src/kernels/cpu.h. */
export const pageTokens = 64

export interface PageSource {
  take(): number
  give(page: number): void
  copy(from: number, to: number): void
}

/**
 * Pages of one size. One that is given back while passes run may still be written by one that was abandoned: it is free
 * only when none runs.
 */
export class PageStore {
  readonly #source: PageSource
  readonly #waiting: number[] = []
  #held = false

  constructor(source: PageSource) {
    this.#source = source
  }

  take(): number {
    return this.#source.take()
  }

  copy(from: number, to: number): void {
    this.#source.copy(from, to)
  }

  copyOf(page: number): number {
    const copy = this.take()
    this.copy(page, copy)
    return copy
  }

  give(pages: Iterable<number>): void {
    for (const page of pages) {
      if (this.#held) this.#waiting.push(page)
      else this.#source.give(page)
    }
  }

  /** Whether passes run. */
  hold(held: boolean): void {
    this.#held = held
    if (!held) this.give(this.#waiting.splice(0))
  }
}

/** Keys and values of one sequence in one layer: a list of pages, which grows as the sequence does. */
export class CpuCache implements LayerCache {
  readonly window: number
  /** Positions p and p + capacity share a place. */
  readonly capacity: number
  readonly pages: number[] = []
  first = 0
  length = 0
  readonly #store: PageStore

  constructor(store: PageStore, window: number, maxChunk: number) {
    this.#store = store
    this.window = window
    // A chunk of n tokens needs the window − 1 before its first token, and itself.
    this.capacity = Number.isFinite(window) ? window - 1 + maxChunk : Infinity
  }

  /** Makes room for `count` positions from `start` on; those from `length` on are about to be written. */
  prepare(start: number, count: number): void {
    const end = start + count
    if (end > this.length) this.first = Math.max(this.first, end - this.capacity)
    // A ring is made whole when a position first lies beyond its end; before that, and in full layers, positions are places.
    const numPlaces = Math.min(end, this.capacity)
    const wanted = Math.ceil(numPlaces / pageTokens)
    while (this.pages.length < wanted) this.pages.push(this.#store.take())
  }

  /** Lengthens the cache by copies of its first page, for timing: what it holds makes no difference to speed. */
  repeat(length: number): void {
    this.prepare(this.length, length - this.length)
    for (const page of this.pages.slice(1)) this.#store.copy(this.pages[0], page)
    this.length = length
  }

  commit(length: number): void {
    this.length = Math.max(this.length, length)
  }

  truncate(length: number): void {
    this.length = Math.min(this.length, length)
    if (!Number.isFinite(this.capacity)) this.#store.give(this.pages.splice(Math.ceil(this.length / pageTokens)))
  }

  restart(position: number): void {
    this.first = position
    this.length = position
  }

  snapshot(first: number, length: number): CpuSnapshot {
    const copies = new Map<number, number>()
    for (let position = first; position < length; position++) {
      const index = Math.floor((position % this.capacity) / pageTokens)
      if (!copies.has(index)) copies.set(index, this.#store.copyOf(this.pages[index]))
    }
    return { first, length, copies, dispose: () => this.#store.give(copies.values()) }
  }

  /** Pages that a pass may still be writing are not written here: others take their place. */
  restore({ first, length, copies }: CpuSnapshot): void {
    for (const [index, page] of copies) {
      const [before] = this.pages.splice(index, 1, this.#store.copyOf(page))
      this.#store.give([before])
    }
    this.first = first
    this.length = length
  }

  dispose(): void {
    this.#store.give(this.pages.splice(0))
  }
}

/** Copies of whole pages, by their place in the ring. */
interface CpuSnapshot extends LayerSnapshot {
  readonly copies: ReadonlyMap<number, number>
}
