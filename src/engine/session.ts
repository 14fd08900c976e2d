import { RequestError } from '../base/errors.ts'
import type { KvCache } from '../model/kv-cache.ts'
import type { Transformer } from '../model/transformer.ts'

/** `done` of the `total` tokens that have to run have run; `reused` before them were held already. */
export interface SyncProgress {
  reused: number
  done: number
  total: number
}

export interface SyncResult {
  /** Tokens at the beginning whose caches were used as they were. */
  reused: number
  /** Tokens that ran through the model, those included that only rebuilt a window. */
  ran: number
  /** False when `shouldStop` ended it: the session then holds a shorter prefix. */
  finished: boolean
}

/** One timeline of tokens and what the model remembers of it. */
export class Session {
  readonly contextLength: number
  readonly #model: Transformer
  readonly #cache: KvCache
  readonly #maxChunk: number
  #tokens: number[] = []
  #logits: Float32Array | undefined

  /** `maxChunk`: tokens a forward pass takes at most, and how finely a prefill can be watched. */
  constructor(model: Transformer, options: { contextLength: number; maxChunk: number }) {
    this.#model = model
    this.contextLength = options.contextLength
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
   * Makes the session hold exactly `tokens` (at least one), running what it does not share with them. `shouldStop` is
   * asked between layers; true ends it there, with a shorter prefix held.
   */
  async sync(tokens: readonly number[], shouldStop?: () => boolean): Promise<SyncResult> {
    const steps = this.advance(tokens, shouldStop)
    for (;;) {
      const { done, value } = await steps.next()
      if (done) return value
    }
  }

  /** Appends one token. False when `shouldStop` ended it. */
  async step(token: number, shouldStop?: () => boolean): Promise<boolean> {
    return (await this.sync([...this.#tokens, token], shouldStop)).finished
  }

  /** `sync`, with a report before the first and after each chunk. */
  async *advance(tokens: readonly number[], shouldStop?: () => boolean): AsyncGenerator<SyncProgress, SyncResult> {
    this.#check(tokens)
    const common = commonPrefix(this.#tokens, tokens)
    if (common === tokens.length && common === this.#tokens.length && this.#logits) {
      return { reused: common, ran: 0, finished: true }
    }
    // The last token runs in any case: nothing else gives its logits.
    const reused = Math.min(common, tokens.length - 1)
    this.rewind(reused)
    this.#logits = undefined
    const start = this.#cache.rewind(reused)
    const total = tokens.length - start
    yield { reused, done: 0, total }
    for (let at = start; at < tokens.length; at += this.#maxChunk) {
      const end = Math.min(at + this.#maxChunk, tokens.length)
      const logits = end === tokens.length ? 'last' : 'none'
      const pass = this.#model.forward([{ cache: this.#cache, tokens: tokens.slice(at, end), start: at, logits }])
      const result = await finish(pass, shouldStop)
      if (!result) return { reused, ran: at - start, finished: false }
      for (let i = this.#tokens.length; i < end; i++) this.#tokens.push(tokens[i])
      if (logits === 'last') this.#logits = result
      yield { reused, done: end - start, total }
    }
    return { reused, ran: total, finished: true }
  }

  /** Forgets everything from `position` on. */
  rewind(position: number): void {
    if (position > this.#tokens.length) {
      throw new RangeError(`cannot rewind to ${position}: the session holds ${this.#tokens.length} tokens`)
    }
    if (position === this.#tokens.length) return
    this.#tokens.length = position
    this.#logits = undefined
  }

  [Symbol.dispose](): void {
    this.#cache.dispose()
  }

  #check(tokens: readonly number[]): void {
    if (tokens.length === 0) throw new RequestError('no tokens: a prompt has at least one', { param: 'tokens' })
    if (tokens.length > this.contextLength) {
      throw new RequestError(
        `${tokens.length} tokens do not fit the context of ${this.contextLength}: shorten the prompt or raise the context`,
        { param: 'tokens' },
      )
    }
    const { vocabSize } = this.#model.config
    const wrong = tokens.findIndex(id => !Number.isInteger(id) || id < 0 || id >= vocabSize)
    if (wrong >= 0) {
      throw new RequestError(`token ${wrong} is ${tokens[wrong]}; the model's ids run from 0 to ${vocabSize - 1}`, {
        param: 'tokens',
      })
    }
  }
}

/** Runs a pass to its end and gives its logits, or abandons it between two layers and gives nothing. */
async function finish(
  pass: Generator<number, Promise<Float32Array>>,
  shouldStop?: () => boolean,
): Promise<Float32Array | undefined> {
  for (;;) {
    if (shouldStop?.()) {
      pass.return(Promise.resolve(new Float32Array(0)))
      return undefined
    }
    const { done, value } = pass.next()
    if (done) return value
  }
}

function commonPrefix(a: readonly number[], b: readonly number[]): number {
  const length = Math.min(a.length, b.length)
  for (let i = 0; i < length; i++) if (a[i] !== b[i]) return i
  return length
}
