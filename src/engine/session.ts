import type { KvCache } from '../model/kv-cache.ts'
import type { ShouldStop } from '../model/stop.ts'
import type { Transformer } from '../model/transformer.ts'
import { checkTokens } from './request.ts'

/** `done` of the `total` tokens that have to run have run; `reused` were held already. */
export interface SyncProgress {
  reused: number
  done: number
  total: number
}

export interface SyncResult {
  /** Tokens at the beginning whose caches were used as they were. */
  reused: number
  /** Tokens that ran through the model; more than the new ones where windows had to be run again. */
  ran: number
  /** False when `shouldStop` ended it: the session then holds a shorter prefix. */
  finished: boolean
}

/** One timeline of tokens and what the model remembers of it. One caller at a time. */
export class Session {
  readonly #limits: { vocabSize: number; contextLength: number }
  readonly #model: Transformer
  readonly #cache: KvCache
  readonly #maxChunk: number
  readonly #tokens: number[] = []
  #logits: Float32Array | undefined
  /** Where to come back to, rising, as far as it has not been reached yet. */
  #marks: readonly number[] = []

  /** `maxChunk`: tokens that a forward pass takes at most, which is how finely a prefill can be watched. */
  constructor(model: Transformer, options: { contextLength: number; maxChunk: number }) {
    this.#model = model
    this.#limits = { vocabSize: model.config.vocabSize, contextLength: options.contextLength }
    this.#maxChunk = options.maxChunk
    this.#cache = model.newCache(options.maxChunk)
  }

  /** The tokens held: what a later `sync` can build on. */
  get tokens(): readonly number[] {
    return this.#tokens
  }

  /** What the model expects after the last token, [vocabSize]; undefined after a rewind or an interruption. */
  get logits(): Float32Array | undefined {
    return this.#logits
  }

  /**
   * Makes the session hold exactly `tokens` (at least one), running what it does not share with them. Throws RequestError
   * for tokens that the model has not, or more than the context holds.
   *
   * `marks`: how many tokens stay where the caller means to come back with others. Behind the last of `tokens` they count
   * for the steps that follow.
   */
  async sync(tokens: readonly number[], shouldStop?: ShouldStop, marks: readonly number[] = []): Promise<SyncResult> {
    return finished(this.advance(tokens, shouldStop, marks))
  }

  /** Appends one token. False when `shouldStop` ended it. */
  async step(token: number, shouldStop?: ShouldStop): Promise<boolean> {
    checkTokens([token], this.#limits, this.#tokens.length)
    return (await finished(this.#extend([token], shouldStop))).finished
  }

  /** `sync`, with a report before the first and after each chunk. */
  async *advance(
    tokens: readonly number[],
    shouldStop?: ShouldStop,
    marks: readonly number[] = [],
  ): AsyncGenerator<SyncProgress, SyncResult> {
    checkTokens(tokens, this.#limits)
    this.#marks = marks.toSorted((a, b) => a - b)
    const common = commonPrefix(this.#tokens, tokens)
    const ready = common === tokens.length && common === this.#tokens.length && this.#logits
    // Without logits the last token runs in any case: nothing else gives them.
    this.rewind(ready ? common : Math.min(common, tokens.length - 1))
    return yield* this.#extend(tokens.slice(this.#tokens.length), shouldStop)
  }

  /** Forgets everything from `position` on. */
  rewind(position: number): void {
    if (!(Number.isInteger(position) && position >= 0 && position <= this.#tokens.length)) {
      throw new RangeError(`cannot rewind to ${position}: the session holds ${this.#tokens.length} tokens`)
    }
    if (position === this.#tokens.length) return
    this.#tokens.length = position
    this.#logits = undefined
  }

  /** Runs `added` behind the tokens held, and before them what the windows need. */
  async *#extend(added: readonly number[], shouldStop?: ShouldStop): AsyncGenerator<SyncProgress, SyncResult> {
    const reused = this.#tokens.length
    if (added.length === 0) {
      this.#mark(reused)
      yield { reused, done: 0, total: 0 }
      return { reused, ran: 0, finished: true }
    }
    this.#logits = undefined
    const start = this.#cache.rewind(reused)
    this.#mark(start)
    const upcoming = [...this.#tokens.slice(start), ...added]
    const total = upcoming.length
    yield { reused, done: 0, total }
    for (let done = 0; done < total; ) {
      const chunk = upcoming.slice(done, done + this.#maxChunk)
      const isLast = done + chunk.length === total
      const piece = {
        cache: this.#cache,
        tokens: chunk,
        start: start + done,
        logits: isLast ? 'last' : 'none',
      } as const
      const logits = await this.#model.forward([piece], shouldStop)
      if (!logits) return { reused, ran: done, finished: false }
      done += chunk.length
      this.#mark(start + done)
      this.#tokens.push(...upcoming.slice(this.#tokens.length - start, done))
      if (done === total) this.#logits = logits
      yield { reused, done, total }
    }
    return { reused, ran: total, finished: true }
  }

  /** Marks what has been reached: the windows still hold what is seen anywhere in the last chunk. */
  #mark(reached: number): void {
    const next = this.#marks.findIndex(mark => mark > reached)
    const passed = next < 0 ? this.#marks : this.#marks.slice(0, next)
    for (const mark of passed) this.#cache.mark(mark)
    this.#marks = this.#marks.slice(passed.length)
  }

  /** Frees the caches; nothing can run afterwards. */
  [Symbol.dispose](): void {
    this.#cache.dispose()
  }
}

async function finished(steps: AsyncGenerator<SyncProgress, SyncResult>): Promise<SyncResult> {
  for (;;) {
    const { done, value } = await steps.next()
    if (done) return value
  }
}

function commonPrefix(a: readonly number[], b: readonly number[]): number {
  const length = Math.min(a.length, b.length)
  for (let i = 0; i < length; i++) if (a[i] !== b[i]) return i
  return length
}
