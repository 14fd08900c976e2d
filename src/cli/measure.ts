import { CpuCache } from '../device/cpu-cache.ts'
import type { Transformer } from '../model/transformer.ts'

/** Runs at least this long, and three times, before a median is taken. */
const minSeconds = 2

/**
 * Tokens a second of prompts of `numTokens` behind `context` tokens, and of single tokens there. The tokens are drawn
 * evenly from the vocabulary. A long context is not run: its caches are filled with copies of a short one's.
 */
export class SpeedTest {
  readonly #model: Transformer
  readonly #maxChunk: number
  #random = 1

  constructor(model: Transformer, maxChunk: number) {
    this.#model = model
    this.#maxChunk = maxChunk
  }

  async prefill(numTokens: number, context = 0): Promise<number> {
    const cache = await this.#cacheOf(context)
    try {
      const seconds = await median(async () => {
        for (let done = 0; done < numTokens; done += this.#maxChunk) {
          const tokens = this.#tokens(Math.min(this.#maxChunk, numTokens - done))
          const logits = done + tokens.length === numTokens ? 'last' : 'none'
          await this.#model.forward([{ cache, tokens, start: context + done, logits }])
        }
        cache.rewind(context)
      })
      return numTokens / seconds
    } finally {
      cache.dispose()
    }
  }

  /** Tokens a second of `numSessions` sequences together. */
  async decode(context = 0, numSessions = 1): Promise<number> {
    const caches = await Promise.all(Array.from({ length: numSessions }, () => this.#cacheOf(Math.max(context, 1))))
    try {
      const seconds = await median(async () => {
        const batch = caches.map(cache => {
          return { cache, tokens: this.#tokens(1), start: cache.length, logits: 'last' as const }
        })
        await this.#model.forward(batch)
      })
      return numSessions / seconds
    } finally {
      for (const cache of caches) cache.dispose()
    }
  }

  /** Whether decoding behind a real prompt of `context` tokens is as fast as behind a filled cache: both figures. */
  async checkFilled(context: number): Promise<{ real: number; filled: number }> {
    const cache = this.#model.newCache(this.#maxChunk)
    for (let start = 0; start < context; start += this.#maxChunk) {
      const tokens = this.#tokens(Math.min(this.#maxChunk, context - start))
      await this.#model.forward([{ cache, tokens, start, logits: 'none' }])
    }
    const seconds = await median(async () => {
      await this.#model.forward([{ cache, tokens: this.#tokens(1), start: cache.length, logits: 'last' }])
    })
    cache.dispose()
    return { real: 1 / seconds, filled: await this.decode(context) }
  }

  async #cacheOf(context: number) {
    const cache = this.#model.newCache(this.#maxChunk)
    if (context === 0) return cache
    const run = Math.min(context, 64)
    await this.#model.forward([{ cache, tokens: this.#tokens(run), start: 0, logits: 'none' }])
    if (context === run) return cache
    for (const layer of cache.layers) {
      if (!(layer instanceof CpuCache)) throw new RangeError('only the cpu device fills its caches')
      layer.repeat(context)
    }
    cache.commit(context)
    return cache
  }

  #tokens(count: number): number[] {
    return Array.from({ length: count }, () => {
      this.#random = (Math.imul(this.#random, 1664525) + 1013904223) >>> 0
      return Math.floor((this.#random / 2 ** 32) * this.#model.config.vocabSize)
    })
  }
}

/** Seconds that a call takes; the first, which may have to take memory, does not count. */
async function median(call: () => Promise<void>): Promise<number> {
  await call()
  const times: number[] = []
  const until = performance.now() + 1000 * minSeconds
  while (times.length < 3 || (performance.now() < until && times.length < 200)) {
    const start = performance.now()
    await call()
    times.push((performance.now() - start) / 1000)
  }
  return times.sort((a, b) => a - b)[times.length >> 1]
}
