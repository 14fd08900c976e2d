import type { SealedReader, SealedWriter } from '../base/sealed.ts'
import type { CacheOutline, KvCache } from '../model/kv-cache.ts'
import type { ShouldStop } from '../model/stop.ts'
import type { Chunk, Transformer } from '../model/transformer.ts'
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

/** How a session is run: in passes of at most `maxChunk` tokens, up to `contextLength`. */
export interface SessionOptions {
  contextLength: number
  /** Tokens that a forward pass takes at most, which is how finely a prefill can be watched. */
  maxChunk: number
}

/** What a session is made from, beside the model. */
type SessionModel = Pick<Transformer, 'config' | 'newCache' | 'forward'>

/**
 * One timeline of tokens and what the model remembers of it. One caller at a time.
 *
 * `sync` and `step` run it alone. Who runs many together asks each what it has to run (`begin` or `append`, then `next`)
 * and tells it what has (`ran`).
 */
export class Session {
  readonly #limits: { vocabSize: number; contextLength: number }
  readonly #model: SessionModel
  readonly #cache: KvCache
  readonly #maxChunk: number
  readonly #tokens: number[]
  #logits: Float32Array | undefined
  /** Where to come back to, rising, as far as it has not been reached yet. */
  #marks: readonly number[] = []
  /** What has been begun: tokens to run from position `start` on, and how many of them have. */
  #upcoming: { reused: number; start: number; tokens: readonly number[]; done: number } | undefined

  constructor(model: SessionModel, options: SessionOptions, held?: { cache: KvCache; tokens: readonly number[] }) {
    this.#model = model
    this.#limits = { vocabSize: model.config.vocabSize, contextLength: options.contextLength }
    this.#maxChunk = options.maxChunk
    this.#cache = held?.cache ?? model.newCache(options.maxChunk)
    this.#tokens = [...(held?.tokens ?? [])]
  }

  /** The tokens held: what a later `sync` can build on. */
  get tokens(): readonly number[] {
    return this.#tokens
  }

  /** What the model expects after the last token, [vocabSize]; undefined after a rewind or an interruption. */
  get logits(): Float32Array | undefined {
    return this.#logits
  }

  /** How far what was begun last has come. */
  get progress(): SyncProgress {
    const { reused, done, tokens } = this.#upcoming ?? { reused: this.#tokens.length, done: 0, tokens: [] }
    return { reused, done, total: tokens.length }
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
    this.append(token)
    return (await finished(this.#runAll(shouldStop))).finished
  }

  /** `sync`, with a report before the first and after each chunk. */
  async *advance(
    tokens: readonly number[],
    shouldStop?: ShouldStop,
    marks: readonly number[] = [],
  ): AsyncGenerator<SyncProgress, SyncResult> {
    this.begin(tokens, marks)
    return yield* this.#runAll(shouldStop)
  }

  async *#runAll(shouldStop?: ShouldStop): AsyncGenerator<SyncProgress, SyncResult> {
    yield this.progress
    for (let chunk = this.next(); chunk; chunk = this.next()) {
      if (!(await this.#run(chunk, shouldStop))) break
      yield this.progress
    }
    const { reused, done, total } = this.progress
    return { reused, ran: done, finished: done === total }
  }

  async #run(chunk: Chunk, shouldStop?: ShouldStop): Promise<boolean> {
    const logits = await this.#model.forward([chunk], shouldStop)
    if (logits) this.ran(chunk, logits)
    return logits !== undefined
  }

  /** Sets out to hold exactly `tokens`, as `sync` does: `next` gives what has to run for it. */
  begin(tokens: readonly number[], marks: readonly number[] = []): void {
    checkTokens(tokens, this.#limits)
    this.#marks = marks.toSorted((a, b) => a - b)
    const common = commonPrefix(this.#tokens, tokens)
    const ready = common === tokens.length && common === this.#tokens.length && this.#logits
    // Without logits the last token runs in any case: nothing else gives them.
    this.rewind(ready ? common : Math.min(common, tokens.length - 1))
    this.#extend(tokens.slice(this.#tokens.length))
  }

  /** Sets out to hold one token more. */
  append(token: number): void {
    checkTokens([token], this.#limits, this.#tokens.length)
    this.#extend([token])
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

  /** What has to run behind the tokens held: `added`, and before them what the windows need. */
  #extend(added: readonly number[]): void {
    const reused = this.#tokens.length
    if (added.length === 0) {
      this.#mark(reused)
      this.#upcoming = { reused, start: reused, tokens: [], done: 0 }
      return
    }
    this.#logits = undefined
    const start = this.#cache.rewind(reused)
    this.#mark(start)
    this.#upcoming = { reused, start, tokens: [...this.#tokens.slice(start), ...added], done: 0 }
  }

  /** What runs next of what was begun, at most `most` tokens and `maxChunk`; undefined once everything has. */
  next(most = this.#maxChunk): Chunk | undefined {
    const { start, tokens, done } = this.#upcoming ?? { start: 0, tokens: [], done: 0 }
    if (done === tokens.length) return undefined
    const chunk = tokens.slice(done, done + Math.min(most, this.#maxChunk))
    const isLast = done + chunk.length === tokens.length
    return { cache: this.#cache, tokens: chunk, start: start + done, logits: isLast ? 'last' : 'none' }
  }

  /** The chunk that `next` gave has run; `logits`: its last token's, [vocabSize], if it asked for them. */
  ran({ tokens: chunk, logits: wanted }: Chunk, logits: Float32Array): void {
    const upcoming = this.#upcoming!
    upcoming.done += chunk.length
    const { start, tokens, done } = upcoming
    this.#mark(start + done)
    this.#tokens.push(...tokens.slice(this.#tokens.length - start, done))
    if (wanted === 'last') this.#logits = logits
  }

  /** One mark more: now, if what is seen there is still held, or when it is reached. */
  mark(position: number): void {
    if (this.#marks.includes(position)) return
    this.#marks = [...this.#marks, position].toSorted((a, b) => a - b)
    this.#mark(this.#cache.length)
  }

  /** Marks what has been reached: the windows still hold what is seen anywhere in the last chunk. */
  #mark(reached: number): void {
    const next = this.#marks.findIndex(mark => mark > reached)
    const passed = next < 0 ? this.#marks : this.#marks.slice(0, next)
    for (const mark of passed) this.#cache.mark(mark)
    this.#marks = this.#marks.slice(passed.length)
  }

  /** How many of the first `position` tokens would have to run again before what comes behind them. */
  cost(position: number): number {
    return this.#cache.cost(position)
  }

  /** Another session that holds the first `position` tokens of this one, in the same memory; this one goes on as it was. */
  fork(position: number): Session {
    const tokens = this.#tokens.slice(0, position)
    const options = { contextLength: this.#limits.contextLength, maxChunk: this.#maxChunk }
    return new Session(this.#model, options, { tokens, cache: this.#cache.fork(position) })
  }

  /** Bytes that it will take more to hold so many tokens. */
  growth(length: number): number {
    return this.#cache.growth(length)
  }

  /** Gives back what only a session that goes on needs; it may go on all the same. */
  rest(): void {
    this.#logits = undefined
    this.#cache.rest()
  }

  /** What `save` writes, but for tokens and numbers. */
  get outline(): CacheOutline {
    return this.#cache.outline
  }

  /** Writes the caches of one that has rested, for `load` of another session with the same tokens. */
  async save(to: SealedWriter): Promise<void> {
    await this.#cache.save(to)
  }

  /** Makes this one, which is empty, what another was when it was saved. Where it rejects, it is good for nothing more. */
  async load(tokens: readonly number[], outline: CacheOutline, from: SealedReader): Promise<void> {
    await this.#cache.load(outline, from)
    this.#tokens.push(...tokens)
  }

  /** Bytes of what `save` writes, and the number of sections. */
  savedSize(outline: CacheOutline): { bytes: number; numSections: number } {
    return this.#cache.savedSize(outline)
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

/** How many tokens two timelines share from the first on. */
export function commonPrefix(a: readonly number[], b: readonly number[]): number {
  const length = Math.min(a.length, b.length)
  for (let i = 0; i < length; i++) if (a[i] !== b[i]) return i
  return length
}
