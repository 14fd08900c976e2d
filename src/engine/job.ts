import type { EndReason, GenerateEvent, GenerateRequest, Usage } from './engine.ts'
import { createMask } from './mask.ts'
import { Sampler } from './sampler.ts'
import type { Session } from './session.ts'
import type { Remaining } from './wait.ts'

/** `<|return|>`, `<|call|>` and `<|endoftext|>` end an assistant's turn. */
const defaultStopTokens: readonly number[] = [200002, 200012, 199999]

export type Emit = (event: GenerateEvent) => void

/** Who comes first: those who wait for an answer, then work that nobody waits for, then what may as well not happen. */
const ranks = { interactive: 0, background: 1, droppable: 2 } as const

/** One request on its way: it waits, its prompt runs, it is answered token by token, and perhaps it waits again. */
export class Job {
  readonly request: GenerateRequest
  /** Its place in the order of arrival. */
  readonly number: number
  readonly rank: number
  readonly owner: string | undefined
  /** The prompt, and behind it what was generated. */
  readonly tokens: number[]
  /** Resolves when nothing more will come, rejects with what went wrong. */
  readonly done: Promise<void>
  /** What runs it; while it waits there is none. */
  session: Session | undefined
  /** The position that the pass which is running it will reach; nothing may be taken from it meanwhile. */
  busyUntil: number | undefined
  /** Whether its tokens come one by one; before that they run in chunks, its prompt or all it had before it had to wait. */
  isAnswering = false
  readonly #emit: Emit
  readonly #sampler: Sampler
  readonly #usage: Usage
  /** Tokens that it may generate. */
  readonly #room: number
  readonly #settle: PromiseWithResolvers<void>
  #isOver = false
  #hasBegun = false
  #ahead: number | undefined
  /** What was told of the prompt: how many of its tokens had to run when it began, and how many of them were left. */
  #prefill: { total: number; left: number } | undefined

  /** Throws RequestError for sampling options that describe no distribution. */
  constructor(
    request: GenerateRequest,
    emit: Emit,
    { number, vocabSize, contextLength }: { number: number; vocabSize: number; contextLength: number },
  ) {
    const { tokens, mask, sampling, maxTokens = Infinity, owner, priority = 'interactive' } = request
    this.request = request
    this.number = number
    this.rank = ranks[priority]
    this.owner = owner
    this.tokens = [...tokens]
    this.#emit = emit
    this.#sampler = new Sampler(sampling ?? {}, vocabSize, mask && createMask(mask, vocabSize))
    this.#room = Math.min(maxTokens, contextLength - tokens.length)
    this.#usage = { promptTokens: tokens.length, cachedTokens: 0, completionTokens: 0 }
    this.#settle = Promise.withResolvers()
    this.done = this.#settle.promise
  }

  /** Whether it has ended, in whatever way: nothing of it shall run any more. */
  get isOver(): boolean {
    return this.#isOver
  }

  get isBusy(): boolean {
    return this.busyUntil !== undefined
  }

  get isDroppable(): boolean {
    return this.rank === ranks.droppable
  }

  /** What it will still ask for; an answer of unknown length is taken to be as long as others were. */
  remaining(usualAnswer: number): Remaining {
    const { completionTokens } = this.#usage
    const { done, total } = this.session?.progress ?? { done: 0, total: this.tokens.length }
    const usual = Math.max(usualAnswer - completionTokens, 1)
    return { prompt: this.isAnswering ? 0 : total - done, answer: Math.min(this.#room - completionTokens, usual) }
  }

  /** How many tokens it holds when it has generated `more` of what it may. */
  lengthAfter(more: number): number {
    return this.tokens.length + Math.min(more, this.#room - this.#usage.completionTokens)
  }

  /** Its place in the queue, told when it changes. */
  waits(ahead: number, expect: () => number | undefined): void {
    if (this.#ahead === ahead || this.#hasBegun) return
    this.#ahead = ahead
    const waitMs = expect()
    this.#emit({ type: 'queued', ahead, ...(waitMs !== undefined && { waitMs }) })
  }

  /** Runs in this session from now on. */
  begin(session: Session, fork?: number): void {
    const { marks = [] } = this.request
    this.session = session
    session.begin(this.tokens, fork === undefined ? marks : [...marks, fork])
    this.isAnswering = false
    if (!this.#hasBegun) this.#usage.cachedTokens = session.progress.reused
    this.#tellProgress()
    this.#hasBegun = true
  }

  /** After a pass: what it has to say, and the next token. */
  advance(): void {
    const { session } = this
    if (!this.isAnswering) this.#tellProgress()
    if (session!.logits === undefined) return
    this.isAnswering = true
    if (this.#room === 0) {
      this.end('length')
      return
    }
    const sampled = this.#sampler.sample(session!.logits)
    const { stopTokens = defaultStopTokens } = this.request
    this.tokens.push(sampled.token)
    this.#usage.completionTokens++
    this.#emit({ type: 'token', ...sampled })
    if (stopTokens.includes(sampled.token)) this.end('stop')
    else if (this.#usage.completionTokens === this.#room) this.end('length')
    else session!.append(sampled.token)
  }

  /** Only of the prompt, and only what is new: what runs again after a wait is nobody's business. */
  #tellProgress(): void {
    if (this.#usage.completionTokens > 0) return
    const { done, total } = this.session!.progress
    this.#prefill ??= { total, left: Infinity }
    if (total - done >= this.#prefill.left) return
    this.#prefill.left = total - done
    this.#emit({
      type: 'prefill',
      cached: this.#usage.cachedTokens,
      done: this.#prefill.total - total + done,
      total: this.#prefill.total,
    })
  }

  get completionTokens(): number {
    return this.#usage.completionTokens
  }

  end(reason: EndReason): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#emit({ type: 'end', reason, usage: this.#usage })
    this.#settle.resolve()
  }

  fail(error: unknown): void {
    this.#isOver = true
    this.#settle.reject(error)
  }

  /** Whoever asked has left. */
  leave(): void {
    this.#isOver = true
    this.#settle.resolve()
  }
}
