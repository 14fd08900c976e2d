import { DeviceError, RequestError } from '../base/errors.ts'
import type { ShouldStop } from '../model/stop.ts'
import type { Transformer } from '../model/transformer.ts'
import type { EndReason, Engine, EngineInfo, GenerateEvent, GenerateRequest, Usage } from './engine.ts'
import { eventStream } from './event-stream.ts'
import { createMask } from './mask.ts'
import { checkRequest } from './request.ts'
import { Sampler } from './sampler.ts'
import { Session, type SyncResult } from './session.ts'

/** `<|return|>`, `<|call|>` and `<|endoftext|>` end an assistant's turn. */
const defaultStopTokens = [200002, 200012, 199999]

/** An engine in this thread lets the thread's other work run at least this often, but for the time that a layer takes. */
const pauseEveryMs = 10

export interface LocalEngineOptions extends Omit<EngineInfo, 'vocabSize'> {
  /** Tokens a forward pass takes at most; also the grain of progress. */
  maxChunk?: number
  /** Named sessions kept; the one used longest ago leaves first. */
  maxSessions?: number
}

type Emit = (event: GenerateEvent) => void

/**
 * The engine in this thread: one request at a time, in the order they came. All sessions together hold at most
 * `contextLength` tokens, the memory that was planned: while one grows, those used longest ago leave.
 */
export class LocalEngine implements Engine {
  readonly info: EngineInfo
  readonly #model: Transformer
  readonly #maxChunk: number
  readonly #maxSessions: number
  readonly #sessions = new Map<string, Session>() // least recently used first
  #lastTurn: Promise<void> = Promise.resolve()
  #closed = false

  constructor(model: Transformer, options: LocalEngineOptions) {
    const { maxChunk = 64, maxSessions = 8, ...info } = options
    this.#model = model
    this.#maxChunk = maxChunk
    this.#maxSessions = maxSessions
    this.info = { ...info, vocabSize: model.config.vocabSize }
  }

  generate(request: GenerateRequest, { signal }: { signal?: AbortSignal } = {}): AsyncGenerator<GenerateEvent> {
    return eventStream(queue => {
      checkRequest(request, this.info)
      let stopped = false
      const pass = this.run(
        request,
        event => queue.push(event),
        withPauses(() => stopped),
      )
      pass.then(
        () => queue.end(),
        error => queue.fail(error),
      )
      return () => void (stopped = true)
    }, signal)
  }

  /**
   * `generate` with its events given to `emit` as they happen. Resolves early, without an `end` event, where `shouldStop`
   * said so. The request has been checked.
   */
  async run(request: GenerateRequest, emit: Emit, shouldStop: ShouldStop): Promise<void> {
    const { promise, resolve: leave } = Promise.withResolvers<void>()
    const before = this.#lastTurn
    this.#lastTurn = promise
    await before
    try {
      if (!this.#closed) await this.#answer(request, emit, () => this.#closed || shouldStop())
      if (this.#closed) throw new DeviceError('the model was closed: load it again')
    } finally {
      leave()
    }
  }

  async #answer(request: GenerateRequest, emit: Emit, shouldStop: ShouldStop): Promise<void> {
    if (await shouldStop()) return
    const { tokens, session: name, mask, stopTokens = defaultStopTokens } = request
    const { vocabSize, contextLength } = this.info
    const sampler = new Sampler(request.sampling ?? {}, vocabSize, mask && createMask(mask, vocabSize))
    const room = Math.min(request.maxTokens ?? Infinity, contextLength - tokens.length)
    const session = this.#open(name)
    try {
      const { reused, finished } = await this.#prefill(session, request, emit, shouldStop)
      if (!finished) return
      const usage: Usage = { promptTokens: tokens.length, cachedTokens: reused, completionTokens: 0 }
      const end = (reason: EndReason) => emit({ type: 'end', reason, usage })
      while (usage.completionTokens < room) {
        const sampled = sampler.sample(session.logits!)
        usage.completionTokens++
        emit({ type: 'token', ...sampled })
        if (stopTokens.includes(sampled.token)) return end('stop')
        if (usage.completionTokens === room) break
        if (!(await session.step(sampled.token, shouldStop))) return
        this.#makeRoom(session)
      }
      end('length')
    } catch (error) {
      // Whatever failed may have left anything in the caches; a refusal leaves them as they were.
      if (name !== undefined && !(error instanceof RequestError)) this.#drop(name, session)
      throw error
    } finally {
      if (name === undefined) session[Symbol.dispose]()
    }
  }

  async #prefill(
    session: Session,
    { tokens, marks, session: name }: GenerateRequest,
    emit: Emit,
    shouldStop: ShouldStop,
  ): Promise<SyncResult> {
    const steps = session.advance(tokens, shouldStop, name === undefined ? [] : marks)
    for (;;) {
      const { done, value } = await steps.next()
      if (done) return value
      this.#makeRoom(session)
      emit({ type: 'prefill', cached: value.reused, done: value.done, total: value.total })
    }
  }

  /** The session of this name, made if there is none, as the one used last. */
  #open(name: string | undefined): Session {
    const { contextLength } = this.info
    const known = name === undefined ? undefined : this.#sessions.get(name)
    const session = known ?? new Session(this.#model, { contextLength, maxChunk: this.#maxChunk })
    if (name !== undefined) {
      this.#sessions.delete(name)
      this.#sessions.set(name, session)
    }
    this.#makeRoom(session)
    return session
  }

  /** Lets sessions go, those used longest ago first, until all fit beside the one in use. */
  #makeRoom(used: Session): void {
    let numTokens = used.tokens.length
    for (const session of this.#sessions.values()) if (session !== used) numTokens += session.tokens.length
    for (const [name, session] of this.#sessions) {
      if (this.#sessions.size <= this.#maxSessions && numTokens <= this.info.contextLength) return
      if (session === used) continue
      numTokens -= session.tokens.length
      this.#drop(name, session)
    }
  }

  #drop(name: string, session: Session): void {
    this.#sessions.delete(name)
    session[Symbol.dispose]()
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#lastTurn
    for (const [name, session] of this.#sessions) this.#drop(name, session)
    this.#model.close()
  }
}

/** A `ShouldStop` that now and then lets the event loop turn, or no caller in this thread could ever ask to stop. */
function withPauses(isStopped: () => boolean): ShouldStop {
  let resumed = performance.now()
  return async () => {
    if (performance.now() - resumed < pauseEveryMs) return isStopped()
    await new Promise<void>(resolve => setTimeout(resolve))
    resumed = performance.now()
    return isStopped()
  }
}
