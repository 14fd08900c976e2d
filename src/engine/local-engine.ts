import { DeviceError, RequestError } from '../base/errors.ts'
import { type Clock, systemClock } from './clock.ts'
import type {
  Engine,
  EngineInfo,
  GenerateEvent,
  GenerateRequest,
  RestoreEvent,
  RestoreRequest,
  SaveEvent,
  SaveRequest,
} from './engine.ts'
import { eventStream } from './event-stream.ts'
import type { Emit, Job } from './job.ts'
import { checkRequest } from './request.ts'
import type { SessionFiles } from './saved-session.ts'
import { type Counts, Scheduler, type ServedModel } from './scheduler.ts'
import { SessionKeeper } from './session-keeper.ts'

export interface LocalEngineOptions extends Omit<EngineInfo, 'vocabSize'> {
  /** Tokens a forward pass takes at most; also the grain of progress. Default 64. */
  maxChunk?: number
  /** Requests that run together. Default 8. */
  maxSessions?: number
  /** Requests that may wait behind them. Default 64. */
  maxWaiting?: number
  /** Timelines kept for later prompts that begin as they do; those used longest ago leave first. Default 64. */
  maxIdle?: number
  /** What keys and values of all requests and timelines may take. */
  cacheBytes?: number
  /** Tokens of its answer for which there has to be room before a request begins. Default 256. */
  claimedAnswer?: number
  clock?: Clock
  /** Where sessions are saved, and `Device.cacheFormat`; they are not by default. */
  saving?: { files: SessionFiles; cacheFormat: string }
}

/** The engine in this thread. */
export class LocalEngine implements Engine {
  readonly info: EngineInfo
  readonly #model: ServedModel & { close(): void }
  readonly #scheduler: Scheduler
  readonly #keeper: SessionKeeper | undefined
  /** Sessions that are being saved or restored. */
  readonly #copies = new Set<{ stop: AbortController; done: Promise<void> }>()

  constructor(model: ServedModel & { close(): void }, options: LocalEngineOptions) {
    const {
      maxChunk = 64,
      maxSessions = 8,
      maxWaiting = 64,
      maxIdle = 64,
      cacheBytes = Infinity,
      claimedAnswer = 256,
      clock,
      saving,
      ...info
    } = options
    this.#model = model
    this.info = { ...info, vocabSize: model.config.vocabSize }
    this.#scheduler = new Scheduler(model, {
      contextLength: info.contextLength,
      maxChunk,
      maxSessions,
      maxWaiting,
      maxIdle,
      cacheBytes,
      claimedAnswer,
      clock: clock ?? systemClock(),
    })
    this.#keeper = saving && new SessionKeeper(this.#scheduler, { ...this.info, ...saving })
  }

  /** What it has done since it began. */
  get counts(): Readonly<Counts> {
    return this.#scheduler.counts
  }

  /** Requests that run and that wait now. */
  get load(): { running: number; waiting: number } {
    return this.#scheduler.load
  }

  generate(request: GenerateRequest, { signal }: { signal?: AbortSignal } = {}): AsyncGenerator<GenerateEvent> {
    return eventStream(queue => {
      checkRequest(request, this.info)
      const job = this.submit(request, event => queue.push(event))
      job.done.then(
        () => queue.end(),
        error => queue.fail(error),
      )
      return () => this.cancel(job)
    }, signal)
  }

  /** `generate` with its events given to `emit` as they happen. The request has been checked. */
  submit(request: GenerateRequest, emit: Emit): Job {
    return this.#scheduler.submit(request, emit)
  }

  cancel(job: Job): void {
    this.#scheduler.cancel(job)
  }

  saveSession(request: SaveRequest, { signal }: { signal?: AbortSignal } = {}): AsyncGenerator<SaveEvent> {
    return this.#copy<SaveEvent>((keeper, emit, signal) => keeper.save(request, emit, signal), signal)
  }

  restoreSession(request: RestoreRequest, { signal }: { signal?: AbortSignal } = {}): AsyncGenerator<RestoreEvent> {
    return this.#copy<RestoreEvent>((keeper, emit, signal) => keeper.restore(request, emit, signal), signal)
  }

  #copy<Event extends { type: string }>(
    work: (keeper: SessionKeeper, emit: (event: Event) => void, signal: AbortSignal) => Promise<void>,
    signal?: AbortSignal,
  ): AsyncGenerator<Event> {
    return eventStream<Event>(queue => {
      if (!this.#keeper) throw new RequestError('this engine has no files: sessions cannot be saved here')
      const stop = new AbortController()
      const done = work(this.#keeper, event => queue.push(event), stop.signal).then(
        () => queue.end(),
        error => queue.fail(error),
      )
      const copy = { stop, done: done.then(() => void this.#copies.delete(copy)) }
      this.#copies.add(copy)
      return () => stop.abort()
    }, signal)
  }

  async close(): Promise<void> {
    for (const { stop } of this.#copies) stop.abort(new DeviceError('the model was closed: load it again'))
    await Promise.all([...this.#copies].map(copy => copy.done))
    await this.#scheduler.close()
    this.#model.close()
  }
}
