import { setImmediate } from 'node:timers/promises'
import { CpuCache } from '../device/cpu-cache.ts'
import type { Chunk, Transformer } from '../model/transformer.ts'

/** Runs at least this long, and three times, before a median is taken. */
const minMs = 2000

/**
 * Tokens a second of prompts of `numTokens` behind `context` tokens, and of single tokens there. The tokens are drawn
 * evenly from the vocabulary. A long context is not run: its caches are filled with copies of a short one's. Rejects with
 * the signal's reason, at the end of a pass.
 */
export class SpeedTest {
  readonly #model: Transformer
  readonly #maxChunk: number
  readonly #signal: AbortSignal | undefined
  #random = 1

  constructor(model: Transformer, maxChunk: number, signal?: AbortSignal) {
    this.#model = model
    this.#maxChunk = maxChunk
    this.#signal = signal
  }

  async prefill(numTokens: number, context = 0): Promise<number> {
    const cache = await this.#cacheOf(context)
    try {
      const seconds = await this.#median(
        async () => {
          for (let done = 0; done < numTokens; done += this.#maxChunk) {
            const tokens = this.#tokens(Math.min(this.#maxChunk, numTokens - done))
            const logits = done + tokens.length === numTokens ? 'last' : 'none'
            await this.#run([{ cache, tokens, start: context + done, logits }])
          }
        },
        () => cache.rewind(context),
      )
      return numTokens / seconds
    } finally {
      cache.dispose()
    }
  }

  /**
   * Tokens a second of `numSessions` sequences together. `afterStep` is called with each batch that was run, and its time
   * does not count.
   */
  async decode(
    context = 0,
    numSessions = 1,
    afterStep?: (batch: readonly Chunk[]) => Promise<unknown>,
  ): Promise<number> {
    const caches = await Promise.all(Array.from({ length: numSessions }, () => this.#cacheOf(Math.max(context, 1))))
    try {
      let batch: Chunk[] = []
      const seconds = await this.#median(
        async () => {
          batch = caches.map(cache => ({ cache, tokens: this.#tokens(1), start: cache.length, logits: 'last' }))
          await this.#run(batch)
        },
        () => afterStep?.(batch),
      )
      return numSessions / seconds
    } finally {
      for (const cache of caches) cache.dispose()
    }
  }

  /** Whether decoding behind a real prompt of `context` tokens is as fast as behind a filled cache: both figures. */
  async checkFilled(context: number): Promise<{ real: number; filled: number }> {
    const cache = this.#model.newCache(this.#maxChunk)
    try {
      for (let start = 0; start < context; start += this.#maxChunk) {
        const tokens = this.#tokens(Math.min(this.#maxChunk, context - start))
        await this.#run([{ cache, tokens, start, logits: 'none' }])
      }
      const seconds = await this.#median(async () => {
        await this.#run([{ cache, tokens: this.#tokens(1), start: cache.length, logits: 'last' }])
      })
      return { real: 1 / seconds, filled: await this.decode(context) }
    } finally {
      cache.dispose()
    }
  }

  async #cacheOf(context: number) {
    const cache = this.#model.newCache(this.#maxChunk)
    if (context === 0) return cache
    const run = Math.min(context, 64)
    await this.#run([{ cache, tokens: this.#tokens(run), start: 0, logits: 'none' }])
    if (context === run) return cache
    for (const layer of cache.layers) {
      if (!(layer instanceof CpuCache)) throw new RangeError('only the cpu device fills its caches')
      layer.repeat(context)
    }
    cache.commit(context)
    return cache
  }

  async #run(batch: readonly Chunk[]): Promise<void> {
    if (this.#signal) await setImmediate() // a device that computes in this thread lets no signal through
    this.#signal?.throwIfAborted()
    await this.#model.forward(batch)
  }

  /** Seconds that a call takes, without `tidy` behind it. The first, which may have to take memory, does not count. */
  async #median(call: () => Promise<void>, tidy?: () => unknown): Promise<number> {
    const timed = async () => {
      const start = performance.now()
      await call()
      const time = performance.now() - start
      await tidy?.()
      return time
    }
    await timed()
    const times: number[] = []
    for (let total = 0; times.length < 3 || (total < minMs && times.length < 200); total += times.at(-1)!) {
      times.push(await timed())
    }
    return times.sort((a, b) => a - b)[times.length >> 1] / 1000
  }

  #tokens(count: number): number[] {
    return Array.from({ length: count }, () => {
      this.#random = (Math.imul(this.#random, 1664525) + 1013904223) >>> 0
      return Math.floor((this.#random / 2 ** 32) * this.#model.config.vocabSize)
    })
  }
}
