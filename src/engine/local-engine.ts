import { DeviceError, RequestError } from '../base/errors.ts'
import type { Transformer } from '../model/transformer.ts'
import type { EndReason, Engine, EngineInfo, GenerateEvent, GenerateRequest } from './engine.ts'
import { createMask } from './mask.ts'
import { Sampler } from './sampler.ts'
import { Session, type SyncProgress, type SyncResult } from './session.ts'

/** `<|return|>`, `<|call|>` and `<|endoftext|>` end an assistant's turn. */
const defaultStopTokens = [200002, 200012, 199999]

export interface LocalEngineOptions extends Omit<EngineInfo, 'vocabSize'> {
  /** Tokens a forward pass takes at most; also the grain of progress. */
  maxChunk?: number
  /** Named sessions kept; the one used longest ago leaves first. */
  maxSessions?: number
}

/** The engine in this thread: one request at a time, in the order they came. */
export class LocalEngine implements Engine {
  readonly info: EngineInfo
  readonly #model: Transformer
  readonly #maxChunk: number
  readonly #maxSessions: number
  readonly #sessions = new Map<string, Session>() // least recently used first
  #turn: Promise<void> = Promise.resolve()
  #closed = false

  constructor(model: Transformer, options: LocalEngineOptions) {
    const { maxChunk = 64, maxSessions = 8, ...info } = options
    this.#model = model
    this.#maxChunk = maxChunk
    this.#maxSessions = maxSessions
    this.info = { ...info, vocabSize: model.config.vocabSize }
  }

  generate(request: GenerateRequest, options: { signal?: AbortSignal } = {}): AsyncGenerator<GenerateEvent> {
    const { signal } = options
    return this.run(request, { shouldStop: () => signal?.aborted === true, reason: () => signal?.reason })
  }

  /** `generate` for callers that have no AbortSignal: `shouldStop` is asked between layers, `reason` is thrown. */
  async *run(
    request: GenerateRequest,
    stop: { shouldStop: () => boolean; reason: () => unknown },
  ): AsyncGenerator<GenerateEvent> {
    const shouldStop = () => stop.shouldStop() || this.#closed
    const { promise: done, resolve: release } = Promise.withResolvers<void>()
    const before = this.#turn
    this.#turn = before.then(() => done)
    try {
      await before
      if (stop.shouldStop()) throw stop.reason()
      if (this.#closed) throw closedError()
      for await (const event of this.#answer(request, shouldStop)) yield event
      if (this.#closed) throw closedError()
    } catch (error) {
      if (error === interrupted) throw this.#closed ? closedError() : stop.reason()
      throw error
    } finally {
      release()
    }
  }

  async *#answer(request: GenerateRequest, shouldStop: () => boolean): AsyncGenerator<GenerateEvent> {
    const { tokens, session: name, mask, stopTokens = defaultStopTokens } = request
    const sampler = new Sampler(request.sampling, mask && createMask(mask, this.info.vocabSize))
    const room = this.#roomFor(request)
    const session = this.#open(name)
    try {
      const { reused, finished } = yield* prefill(session.advance(tokens, shouldStop))
      if (!finished) throw interrupted
      let completionTokens = 0
      const end = (reason: EndReason): GenerateEvent => {
        return { type: 'end', reason, usage: { promptTokens: tokens.length, cachedTokens: reused, completionTokens } }
      }
      while (completionTokens < room) {
        const sampled = sampler.sample(session.logits!)
        completionTokens++
        yield { type: 'token', ...sampled }
        if (stopTokens.includes(sampled.token)) return yield end('stop')
        if (completionTokens < room && !(await session.step(sampled.token, shouldStop))) throw interrupted
      }
      yield end('length')
    } finally {
      if (name === undefined) session[Symbol.dispose]()
    }
  }

  /** How many tokens may be generated. */
  #roomFor({ tokens, maxTokens = Infinity }: GenerateRequest): number {
    if (!(maxTokens >= 0)) {
      throw new RequestError(`maxTokens is ${maxTokens}; it must be a number from 0 on`, { param: 'maxTokens' })
    }
    return Math.min(maxTokens, this.info.contextLength - tokens.length)
  }

  #open(name: string | undefined): Session {
    const { contextLength } = this.info
    if (name === undefined) return new Session(this.#model, { contextLength, maxChunk: this.#maxChunk })
    const session = this.#sessions.get(name) ?? new Session(this.#model, { contextLength, maxChunk: this.#maxChunk })
    this.#sessions.delete(name)
    this.#sessions.set(name, session)
    for (const [oldest, old] of this.#sessions) {
      if (this.#sessions.size <= this.#maxSessions) break
      this.#sessions.delete(oldest)
      old[Symbol.dispose]()
    }
    return session
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#turn
    for (const session of this.#sessions.values()) session[Symbol.dispose]()
    this.#sessions.clear()
    this.#model.close()
  }
}

async function* prefill(
  steps: AsyncGenerator<SyncProgress, SyncResult>,
): AsyncGenerator<GenerateEvent, SyncResult, undefined> {
  for (;;) {
    const { done, value } = await steps.next()
    if (done) return value
    yield { type: 'prefill', cached: value.reused, done: value.done, total: value.total }
  }
}

/** Thrown where a forward pass was stopped; becomes the caller's own reason. */
const interrupted = Symbol('interrupted')

const closedError = () => new DeviceError('the model was closed: load it again')
