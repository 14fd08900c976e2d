import { DeviceError, RequestError } from '../base/errors.ts'
import type { Chunk, Transformer } from '../model/transformer.ts'
import type { Clock } from './clock.ts'
import type { GenerateRequest } from './engine.ts'
import { type Emit, Job } from './job.ts'
import { PrefixCache } from './prefix-cache.ts'
import { commonPrefix, Session } from './session.ts'
import { Pace } from './wait.ts'

/** What the scheduler needs of a model. */
export type ServedModel = Pick<Transformer, 'config' | 'newCache' | 'forward' | 'heldCacheBytes'>

export interface SchedulerOptions {
  contextLength: number
  /** Tokens that a forward pass takes at most. */
  maxChunk: number
  /** Requests that run together; others wait. */
  maxSessions: number
  /** Requests that may wait; more are refused. */
  maxWaiting: number
  /** Timelines that nobody runs and that are kept for prompts that begin as they do. */
  maxIdle: number
  /** What all caches may take. At least what one request of the whole context takes. */
  cacheBytes: number
  /** Tokens of its answer for which there has to be room before a request begins; later others make room, or it does. */
  claimedAnswer: number
  clock: Clock
}

/** What an engine has done since it began: for tests, benches and operators. */
export interface Counts {
  /** Tokens that ran in chunks: prompts, as far as they were not cached, and what had to run again. */
  prefilled: number
  /** Tokens that ran one by one, to be answered by the next. */
  decoded: number
  passes: number
  /** Requests that had to make room for others and wait again. */
  parked: number
}

/** Of the time beside a prefill, streams get 1 part and the prefill this many: a gap grows 2.5 times, 60 % stay to it. */
const prefillShare = 1.5
/** So many shared tokens are worth waiting for somebody who is running them. */
const worthWaiting = 64 // tokens
/** Chunks of work that nobody waits for are this much shorter: who comes meanwhile waits for the end of one. */
const backgroundChunks = 4

/** Streams that advance by a token each, and prompts that run in chunks. */
type Lane = 'decode' | 'prefill'

interface Piece {
  job: Job
  chunk: Chunk
}

/**
 * Runs the requests of many owners on one model, together.
 *
 * There are two lanes. In one the streams that are being answered advance by a token each, in one pass; in the other
 * prompts run in chunks, several in a pass where they are short. While a stream is due the prefill is suspended between
 * two layers, or wherever the device can.
 */
export class Scheduler {
  readonly counts: Counts = { prefilled: 0, decoded: 0, passes: 0, parked: 0 }
  readonly #model: ServedModel
  readonly #options: SchedulerOptions
  readonly #idle: PrefixCache
  readonly #pace = new Pace()
  /** When an owner's request was last begun, in the order of beginnings. */
  readonly #lastBegun = new Map<string | undefined, number>()
  #waiting: Job[] = []
  readonly #running = new Set<Job>()
  /** Sessions that somebody fills or reads, with the tokens that they will hold. */
  readonly #held = new Map<Session, number>()
  #numJobs = 0
  #numBegun = 0
  #closed = false
  /** Open while a lane has something to do. */
  readonly #lanes: Record<Lane, Promise<void> | undefined> = { prefill: undefined, decode: undefined }
  /** Open while streams are being advanced. */
  #decodePass: Promise<unknown> | undefined
  /** When streams were last advanced. */
  #lastDecode = -Infinity
  /** How long streams wait for a prefill that runs beside them. */
  #pause: { cancel: () => void } | undefined
  #passEnded = Promise.withResolvers<void>()

  constructor(model: ServedModel, options: SchedulerOptions) {
    this.#model = model
    this.#options = options
    this.#idle = new PrefixCache(options.maxIdle)
  }

  /** Requests that run and that wait now. */
  get load(): { running: number; waiting: number } {
    return { running: this.#running.size, waiting: this.#waiting.length }
  }

  /**
   * Takes a request, which has been checked. Throws RequestError (429, with the wait to expect) where too many wait
   * already, DeviceError once closed.
   */
  submit(request: GenerateRequest, emit: Emit): Job {
    if (this.#closed) throw new DeviceError('the model was closed: load it again')
    const { contextLength, maxWaiting } = this.#options
    const { vocabSize } = this.#model.config
    const job = new Job(request, emit, { number: this.#numJobs++, vocabSize, contextLength })
    if (!job.isDroppable) this.#dropDroppable()
    if (this.#waiting.length >= maxWaiting) throw this.#refusal()
    this.#waiting.push(job)
    if (request.deadlineMs !== undefined) this.#expire(job, request.deadlineMs)
    this.#pump()
    return job
  }

  /** Ends a request whose caller has left; what it has run is kept for its owner. */
  cancel(job: Job): void {
    if (job.isOver) return
    job.leave()
    if (!job.isBusy) this.#remove(job)
    this.#pump()
  }

  /** Waits for the passes that run, rejects everything else, and frees all caches. */
  async close(): Promise<void> {
    this.#closed = true
    this.#pause?.cancel()
    await Promise.all(Object.values(this.#lanes))
    for (const job of [...this.#waiting, ...this.#running]) {
      if (!job.isOver) job.fail(new DeviceError('the model was closed: load it again'))
      job.session?.[Symbol.dispose]()
    }
    this.#waiting = []
    this.#running.clear()
    while (this.#idle.evict());
  }

  /** An empty one. */
  newSession(): Session {
    return new Session(this.#model, this.#options)
  }

  /**
   * Keeps an empty session for an owner's later prompts once `fill` has made it hold `length` tokens. False where there is
   * no room for it beside those who run. Rejects as `fill` does.
   */
  async adopt(owner: string, session: Session, length: number, fill: () => Promise<void>): Promise<boolean> {
    if (!this.#makeRoom(this.#claims() + session.growth(length))) return false
    try {
      await this.hold(session, length, async () => {
        await fill()
        this.#idle.give(owner, session)
      })
      return true
    } catch (error) {
      session[Symbol.dispose]()
      throw error
    }
  }

  /** Counts the memory of a session that is no job's, up to `length` tokens, while `work` goes on with it. */
  async hold(session: Session, length: number, work: () => Promise<void>): Promise<void> {
    this.#held.set(session, length)
    try {
      await work()
    } finally {
      this.#held.delete(session)
      this.#somethingEnded()
    }
  }

  #refusal(): RequestError {
    const { maxWaiting } = this.#options
    const waitMs = this.#waitOf(this.#waiting)
    const expected = waitMs === undefined ? '' : `, the last for some ${Math.ceil(waitMs / 1000)} seconds`
    return new RequestError(`${maxWaiting} requests wait already${expected}: try again later`, {
      status: 429,
      ...(waitMs !== undefined && { retryAfterMs: waitMs }),
    })
  }

  #expire(job: Job, ms: number): void {
    const timer = this.#options.clock.sleep(ms)
    void job.done.then(timer.cancel, timer.cancel)
    void timer.over.then(() => {
      if (job.isOver) return
      const message = `the request's deadline of ${ms} ms has passed: allow it more time, or ask for less`
      job.fail(new RequestError(message, { status: 504, param: 'deadlineMs' }))
      if (!job.isBusy) this.#remove(job)
      this.#pump()
    })
  }

  #dropDroppable(): void {
    for (const job of [...this.#waiting, ...this.#running]) {
      if (!job.isDroppable || job.isOver) continue
      job.end('dropped')
      if (!job.isBusy) this.#remove(job)
    }
  }

  /** After anything that may let somebody go on. */
  #pump(): void {
    if (this.#closed) return
    this.#admit()
    for (const lane of ['prefill', 'decode'] as const) {
      if (!this.#lanes[lane] && this.#active(lane).length > 0) this.#lanes[lane] = this.#runLane(lane)
    }
    const order = this.#inTurn()
    for (const [ahead, job] of order.entries()) job.waits(ahead, () => this.#waitOf(order.slice(0, ahead + 1)))
  }

  #waitOf(jobs: readonly Job[]): number | undefined {
    const remaining = (job: Job) => job.remaining(this.#pace.answerTokens)
    return this.#pace.wait([...this.#running].map(remaining), jobs.map(remaining), this.#options.maxSessions)
  }

  // --- who runs

  /** Those that wait, in the order of their turn: by rank; then owners with few running, and long without; then as they came. */
  #inTurn(): Job[] {
    const numRunning = new Map<string | undefined, number>()
    for (const { owner } of this.#running) numRunning.set(owner, (numRunning.get(owner) ?? 0) + 1)
    return this.#waiting.toSorted(
      (a, b) =>
        a.rank - b.rank ||
        (numRunning.get(a.owner) ?? 0) - (numRunning.get(b.owner) ?? 0) ||
        (this.#lastBegun.get(a.owner) ?? -1) - (this.#lastBegun.get(b.owner) ?? -1) ||
        a.number - b.number,
    )
  }

  /** Begins what may run. */
  #admit(): void {
    for (let began = true; began; ) {
      began = false
      for (const job of this.#inTurn()) {
        if (this.#waitsForPrefix(job)) continue
        if (!this.#beginOrFail(job)) return // whoever comes later waits behind it
        began = true
        break
      }
    }
  }

  /** Whether one of the same owner is just running what this one begins with. */
  #waitsForPrefix({ owner, tokens, rank }: Job): boolean {
    if (owner === undefined) return false
    for (const other of this.#running) {
      if (other.owner !== owner || other.isAnswering || other.isOver || other.rank > rank) continue
      const common = Math.min(commonPrefix(other.tokens, tokens), tokens.length - 1)
      if (common <= other.session!.tokens.length) continue
      if (common < worthWaiting + this.#idle.spares(owner, tokens)) continue
      other.session!.mark(common)
      return true
    }
    return false
  }

  /** What goes wrong before anything has run concerns one request alone. */
  #beginOrFail(job: Job): boolean {
    try {
      return this.#tryBegin(job)
    } catch (error) {
      this.#failAll([job], error)
      this.#remove(job)
      return true
    }
  }

  #tryBegin(job: Job): boolean {
    while (this.#running.size >= this.#options.maxSessions) if (!this.#parkBelow(job.rank)) return false
    const { owner, tokens } = job
    const found = owner === undefined ? undefined : this.#idle.take(owner, tokens, this.#sessionsOf(owner))
    const session = found?.session ?? this.newSession()
    const needed = () => this.#claims() + session.growth(job.lengthAfter(this.#options.claimedAnswer))
    while (this.#running.size + this.#held.size > 0 && !this.#makeRoom(needed())) {
      if (this.#parkBelow(job.rank)) continue
      if (found?.isTaken) this.#putBack(owner, session)
      else session[Symbol.dispose]()
      return false
    }
    this.#makeRoom(needed())
    this.#waiting = this.#waiting.filter(other => other !== job)
    this.#running.add(job)
    this.#lastBegun.set(owner, this.#numBegun++)
    job.begin(session, found?.fork)
    return true
  }

  /** Sessions of an owner that run: their beginnings may be shared. */
  #sessionsOf(owner: string): Session[] {
    return [...this.#running].filter(job => job.owner === owner).map(job => job.session!)
  }

  /** Bytes that those who run may still come to take, and sessions that are held. */
  #claims(): number {
    let bytes = this.#heldGrowth()
    for (const job of this.#running) bytes += job.session!.growth(job.lengthAfter(this.#options.claimedAnswer))
    return bytes
  }

  #heldGrowth(): number {
    let bytes = 0
    for (const [session, length] of this.#held) bytes += session.growth(length)
    return bytes
  }

  /** Frees idle timelines until so many bytes are free. False where they are not. */
  #makeRoom(bytes: number): boolean {
    while (this.#model.heldCacheBytes + bytes > this.#options.cacheBytes) if (!this.#idle.evict()) return false
    return true
  }

  /** Lets somebody of a lower rank wait again. */
  #parkBelow(rank: number): boolean {
    const victim = this.#victim(job => job.rank > rank)
    if (victim) this.#park(victim)
    return victim !== undefined
  }

  /** Who has to wait when somebody must: the lowest rank, and of that who came last. */
  #victim(mayWait: (job: Job) => boolean): Job | undefined {
    const candidates = [...this.#running].filter(job => !job.isBusy && mayWait(job))
    return candidates.toSorted((a, b) => b.rank - a.rank || b.number - a.number)[0]
  }

  /** What it has run is kept as long as there is room, and runs again if there was none. */
  #park(job: Job): void {
    this.counts.parked++
    this.#running.delete(job)
    this.#putBack(job.owner, job.session!)
    job.session = undefined
    this.#waiting.push(job)
  }

  #putBack(owner: string | undefined, session: Session): void {
    if (owner === undefined || session.tokens.length === 0) session[Symbol.dispose]()
    else this.#idle.give(owner, session)
  }

  /** One that is over and in no pass. */
  #remove(job: Job): void {
    this.#waiting = this.#waiting.filter(other => other !== job)
    if (this.#running.delete(job)) this.#putBack(job.owner, job.session!)
  }

  // --- what runs

  async #runLane(lane: Lane): Promise<void> {
    try {
      for (;;) {
        await (lane === 'decode' ? this.#letPrefillRun() : undefined)
        const batch = this.#closed ? [] : lane === 'decode' ? this.#decodeBatch() : this.#prefillBatch()
        if (batch.length === 0) return
        // Chosen and begun in one go: whoever leaves in between would be run all the same.
        if (this.#hasRoom(batch)) await this.#run(batch, lane)
        else if (!this.#parkOne()) await this.#passEnded.promise
      }
    } finally {
      this.#lanes[lane] = undefined
      this.#pause?.cancel()
    }
  }

  /** Those of the best rank that there is: others wait until none of it runs. */
  #active(lane: Lane): Job[] {
    const rank = Math.min(...[...this.#running].map(job => job.rank))
    const isAnswering = lane === 'decode'
    return [...this.#running].filter(job => job.rank === rank && job.isAnswering === isAnswering && !job.isOver)
  }

  #decodeBatch(): Piece[] {
    return this.#active('decode').map(job => ({ job, chunk: job.session!.next()! }))
  }

  /** A pass's tokens in equal shares, and what some do not need to those who came first. */
  #prefillBatch(): Piece[] {
    const jobs = this.#active('prefill')
    const { maxChunk } = this.#options
    let left = jobs[0]?.rank === 0 ? maxChunk : Math.ceil(maxChunk / backgroundChunks)
    const wanted = jobs.map(job => job.remaining(0).prompt)
    const shares = wanted.map(() => 0)
    for (let open = jobs.length; left > 0 && open > 0; open = wanted.filter((tokens, i) => shares[i] < tokens).length) {
      const share = Math.ceil(left / open)
      for (const [i, tokens] of wanted.entries()) {
        const more = Math.min(share, tokens - shares[i], left)
        shares[i] += more
        left -= more
      }
    }
    return jobs.flatMap((job, i) => (shares[i] > 0 ? [{ job, chunk: job.session!.next(shares[i])! }] : []))
  }

  /** Streams wait a little for a prefill that runs beside them, or it would never end. */
  async #letPrefillRun(): Promise<void> {
    // By how long it usually takes: a step that was late would make the next one later.
    const pauseMs = this.#lastDecode + prefillShare * this.#pace.stepMs - this.#options.clock.now()
    if (!this.#lanes.prefill || pauseMs <= 0) return
    const pause = this.#options.clock.sleep(pauseMs)
    this.#pause = pause
    await pause.over
    this.#pause = undefined
  }

  /** Whether there is room for what a pass adds to the caches; idle timelines leave for it. */
  #hasRoom(batch: readonly Piece[]): boolean {
    const busy = [...this.#running].filter(job => job.isBusy)
    let bytes = this.#heldGrowth()
    for (const { job, chunk } of batch) bytes += job.session!.growth(endOf(chunk))
    for (const job of busy) bytes += job.session!.growth(job.busyUntil!)
    return this.#makeRoom(bytes) || this.#running.size + this.#held.size === 1 // the budget has room for one
  }

  /** Lets somebody wait again who is in no pass, but not the one whose turn came first. False where there is none. */
  #parkOne(): boolean {
    const [first] = [...this.#running].toSorted((a, b) => a.rank - b.rank || a.number - b.number)
    const victim = this.#victim(job => job !== first)
    if (victim) this.#park(victim)
    return victim !== undefined
  }

  async #run(batch: readonly Piece[], lane: Lane): Promise<void> {
    const { clock } = this.#options
    const jobs = batch.map(piece => piece.job)
    for (const { job, chunk } of batch) job.busyUntil = endOf(chunk)
    const began = clock.now()
    const urgent = lane === 'decode'
    try {
      const pass = this.#model.forward(
        batch.map(piece => piece.chunk),
        () => this.#between(jobs, urgent),
        { urgent },
      )
      if (urgent) this.#decodePass = pass.catch(() => {})
      const logits = await pass
      if (urgent) this.#lastDecode = clock.now()
      this.#decodePass = urgent ? undefined : this.#decodePass
      if (logits) this.#ran(batch, logits, lane, clock.now() - began)
    } catch (error) {
      this.#failAll(jobs, error)
    } finally {
      if (urgent) this.#decodePass = undefined
      for (const job of jobs) {
        job.busyUntil = undefined
        if (job.isOver) this.#remove(job)
      }
      this.#somethingEnded()
    }
  }

  #somethingEnded(): void {
    this.#passEnded.resolve()
    this.#passEnded = Promise.withResolvers()
    this.#pump()
  }

  /** Asked between layers: whether to give the pass up. A prefill waits here while streams advance. */
  async #between(jobs: readonly Job[], urgent: boolean): Promise<boolean> {
    await this.#options.clock.turn()
    while (!urgent && this.#decodePass) await this.#decodePass
    return this.#closed || jobs.every(job => job.isOver)
  }

  #ran(batch: readonly Piece[], logits: Float32Array, lane: Lane, ms: number): void {
    const { vocabSize } = this.#model.config
    let row = 0
    let numTokens = 0
    for (const { job, chunk } of batch) {
      const hasLogits = chunk.logits === 'last'
      job.session!.ran(chunk, hasLogits ? logits.subarray(row * vocabSize, ++row * vocabSize) : logits)
      numTokens += chunk.tokens.length
    }
    this.counts.passes++
    this.counts[lane === 'decode' ? 'decoded' : 'prefilled'] += numTokens
    if (lane === 'decode') this.#pace.stepped(ms)
    else this.#pace.ranPrompt(numTokens, ms)
    for (const { job } of batch) {
      try {
        if (!job.isOver) job.advance()
      } catch (error) {
        this.#failAll([job], error)
      }
      if (job.isOver && job.completionTokens > 0) this.#pace.answered(job.completionTokens)
    }
  }

  /** Whatever failed may have left anything in the caches; a refusal leaves them as they were. */
  #failAll(jobs: readonly Job[], error: unknown): void {
    for (const job of jobs) {
      if (!job.isOver) job.fail(error)
      if (error instanceof RequestError) continue
      this.#running.delete(job)
      job.session?.[Symbol.dispose]()
    }
  }
}

/** The position behind a chunk. */
const endOf = ({ start, tokens }: Chunk): number => start + tokens.length
