import { DeviceError, RequestError } from '../base/errors.ts'
import { seededRandom } from '../base/random.ts'
import { planMemory } from '../model/memory.ts'
import type { Chunk } from '../model/transformer.ts'
import type { EndReason, GenerateEvent, GenerateRequest } from './engine.ts'
import type { Emit, Job } from './job.ts'
import { LocalEngine } from './local-engine.ts'
import { createMask } from './mask.ts'
import { Sampler } from './sampler.ts'
import { type Fate, ScriptedModel, SimulatedClock } from './scripted-model.testing.ts'
import { commonPrefix } from './session.ts'

export interface Simulated {
  failures: string[]
  /** Calls of the model. */
  numCalls: number
  /** What happened, so that a row can see that it tried what it is about. */
  counts: Record<Happening, number>
}

/** What a row wants to have seen. */
export const happenings = [
  ...['requests', 'tokens', 'finished', 'cancelled', 'failed', 'expired', 'refused', 'dropped', 'closed'],
  ...['parked', 'cached', 'rebuilt', 'waited', 'shared'],
] as const satisfies readonly string[]
export type Happening = (typeof happenings)[number]

/** Moments after which a simulation is taken to go on for ever. */
const mostTicks = 200_000
/** How often the memory may be asked for within a moment. */
const mostLooks = 100_000

/** How a caller behaves. */
interface Plan {
  request: GenerateRequest
  /** How it is asked: by `submit`, or by reading `generate` and leaving by its signal or by breaking off. */
  by: 'submit' | 'generate' | 'break'
  /** When it leaves: so many milliseconds after asking, or so many turns of promises after its nth event. */
  leaves?: { afterMs: number } | { event: number; turns: number }
  /** What it asks besides at its nth event. */
  asks?: { event: number; turns: number; plan: Plan }
}

/** Draws what a seed is about. */
class Draw {
  readonly random: () => number
  constructor(seed: number) {
    this.random = seededRandom(seed)
  }
  below(n: number): number {
    return Math.floor(this.random() * n)
  }
  of<T>(items: readonly T[]): T {
    return items[this.below(items.length)]
  }
  chance(p: number): boolean {
    return this.random() < p
  }
}

/** One request as seen from outside. */
class Watched {
  readonly number: number
  readonly plan: Plan
  readonly expected: { tokens: number[]; reason: EndReason | 'refused' }
  readonly events: GenerateEvent[] = []
  readonly tokens: number[] = []
  readonly atMs: number
  readonly atTick: number
  job: Job | undefined
  outcome: 'open' | 'ended' | 'left' | 'failed' | 'refused' = 'open'
  error: unknown
  leftBy: (() => void) | undefined
  /** How often other owners began something while it waited and its owner ran nothing. */
  readonly passedBy = new Map<string | undefined, number>()

  constructor(number: number, plan: Plan, expected: Watched['expected'], atMs: number, atTick: number) {
    this.number = number
    this.plan = plan
    this.expected = expected
    this.atMs = atMs
    this.atTick = atTick
  }

  get owner(): string | undefined {
    return this.plan.request.owner
  }
  get priority(): NonNullable<GenerateRequest['priority']> {
    return this.plan.request.priority ?? 'interactive'
  }
  get rank(): number {
    return ['interactive', 'background', 'droppable'].indexOf(this.priority)
  }
  get isLive(): boolean {
    return this.job !== undefined && !this.job.isOver
  }
  get isRunning(): boolean {
    return this.job?.session !== undefined && (!this.job.isOver || this.job.isBusy)
  }
  get hasBegun(): boolean {
    return this.events.some(event => event.type === 'prefill')
  }
}

export interface SimulateOptions {
  /** Given every step. */
  tell?: (line: string) => void
  /** The call of the model that fails, and no other: caches, passes, layers and memory are counted together from 0. */
  failAt?: number
}

/** Runs what a seed is about. */
export function simulate(seed: number, options: SimulateOptions = {}): Promise<Simulated> {
  return new Simulation(seed, options).run()
}

class Simulation {
  readonly #draw: Draw
  readonly #clock: SimulatedClock
  readonly #model: ScriptedModel
  readonly #engine: LocalEngine
  readonly #tell: ((line: string) => void) | undefined
  readonly #failures: string[] = []
  readonly #counts = Object.fromEntries(happenings.map(name => [name, 0])) as Record<Happening, number>
  readonly #watched: Watched[] = []
  readonly #inPass = new Set<Watched>()
  readonly #passes = new Map<readonly Chunk[], { number: number; members: Watched[] }>()
  readonly #limits: { contextLength: number; maxChunk: number; maxWaiting: number; cacheBytes: number }
  readonly #hasFaults: boolean
  readonly #failAt: number | undefined
  #numCalls = 0
  readonly #isCopying: boolean
  /** Short prompts, long answers: many begin for whom there will be no room. */
  readonly #isChatty: boolean
  readonly #owners: (string | undefined)[]
  readonly #beginnings: number[][]
  #histories: { owner: string | undefined; tokens: number[] }[] = []
  #numPasses = 0
  #looks = 0
  #lastTick = -1
  #mostBytes = 0
  #isClosed = false

  constructor(seed: number, { tell, failAt }: SimulateOptions) {
    const draw = new Draw(seed)
    this.#draw = draw
    this.#tell = tell
    this.#failAt = failAt
    this.#clock = new SimulatedClock(draw.random)
    const device = draw.of(['reference', 'cpu'] as const)
    const isSmall = device === 'reference' || draw.chance(0.5)
    const contextLength = draw.of(isSmall ? [120, 120, 250] : [420])
    const maxChunk = draw.of(isSmall ? [1, 4, 8, 16] : [32, 64])
    this.#model = new ScriptedModel({
      clock: this.#clock,
      device,
      isLate: draw.chance(0.3),
      window: isSmall ? draw.of([2, 5]) : draw.of([17, 70]),
      contextLength,
      onPass: (batch, urgent) => this.#passBegins(batch, urgent),
      onPassEnd: batch => this.#passEnds(batch),
      onCall: what => this.#calls(what),
    })
    this.#isCopying = device === 'reference'
    this.#hasFaults = draw.chance(0.25) && failAt === undefined
    this.#isChatty = draw.chance(0.25)
    const cacheBytes = this.#budget(contextLength, maxChunk)
    this.#limits = { contextLength, maxChunk, maxWaiting: draw.of([1, 4, 64, 64]), cacheBytes }
    const queue = {
      maxSessions: draw.of(this.#isChatty ? [3, 8] : [1, 2, 3, 4, 8]),
      maxIdle: draw.of([0, 2, 64, 64]),
      claimedAnswer: draw.of(this.#isChatty ? [0] : [0, 8, 256]),
    }
    const options = { model: 'scripted', device, clock: this.#clock, ...queue, ...this.#limits }
    this.#engine = this.#watch(new LocalEngine(this.#watchMemory(this.#model), options))
    this.#owners = ['a', 'b', 'c', undefined].slice(0, 1 + draw.below(4))
    this.#beginnings = [0.1, 0.3, 0.6].map(share => this.#some(1 + draw.below(Math.floor(contextLength * share))))
    this.#say(
      `seed ${seed}: ${device}, window ${this.#model.config.slidingWindow}, ${JSON.stringify({ ...this.#limits, ...queue })}`,
    )
  }

  /** As many bytes as are planned for some sessions, or no limit. */
  #budget(contextLength: number, maxChunk: number): number {
    const maxSessions = this.#draw.of(this.#isChatty ? [1, 2] : [Infinity, 1, 1, 2, 4])
    if (maxSessions === Infinity) return Infinity
    const { config, shelf } = this.#model
    const device = {
      cacheBytes: shelf.cacheBytes.bind(shelf),
      snapshotBytes: shelf.snapshotBytes.bind(shelf),
      passBytes: () => 0,
    }
    const weights = { own: 0, mapped: 0 }
    return planMemory(config, contextLength, { device, weights, maxChunk, maxSessions }).cache
  }

  /** The model, but that it notices who asks too often and what is held. */
  #watchMemory(model: ScriptedModel): ScriptedModel {
    const look = () => {
      if (this.#lastTick !== this.#clock.ticks) this.#looks = 0
      this.#lastTick = this.#clock.ticks
      if (++this.#looks > mostLooks) throw new Error('the scheduler turns in circles')
      const bytes = model.heldCacheBytes
      this.#mostBytes = Math.max(this.#mostBytes, bytes)
      return bytes
    }
    return new Proxy(model, {
      get: (_, name: keyof ScriptedModel) => {
        if (name === 'heldCacheBytes') return look()
        const value = model[name]
        return typeof value === 'function' ? value.bind(model) : value
      },
    })
  }

  /** `generate` submits too: all requests come by here. */
  #watch(engine: LocalEngine): LocalEngine {
    const submit = engine.submit.bind(engine)
    engine.submit = (request, emit) => {
      const watched = this.#watched.find(({ plan, job }) => plan.request === request && !job)!
      const emitToo: Emit = event => {
        this.#hear(watched, event)
        emit(event)
      }
      const numWaiting = this.#watched.filter(other => other.isLive && !other.isRunning).length
      try {
        watched.job = submit(request, emitToo)
      } catch (error) {
        watched.outcome = 'refused'
        watched.error = error
        const isQueueFull = error instanceof RequestError && error.status === 429
        if (isQueueFull) this.#counts.refused++
        const mayRefuse = isQueueFull ? numWaiting >= this.#limits.maxWaiting : this.#isClosed
        if (!mayRefuse) this.#fail(watched, `was refused while ${numWaiting} waited: ${error}`)
        throw error
      }
      watched.job.done.then(
        () => this.#settled(watched, undefined),
        error => this.#settled(watched, error ?? 'nothing'),
      )
      if (watched.priority !== 'droppable') {
        for (const other of this.#watched) {
          if (other !== watched && other.priority === 'droppable' && other.isLive && other.atTick < watched.atTick) {
            this.#fail(other, 'droppable, and it goes on when another is asked for')
          }
        }
      }
      return watched.job
    }
    return engine
  }

  async run(): Promise<Simulated> {
    const onRejection = (error: unknown) => void this.#failures.push(`unhandled rejection: ${(error as Error)?.stack}`)
    process.on('unhandledRejection', onRejection)
    try {
      this.#plan()
      await this.#clock.run(() => this.#afterMoment())
      await this.#finish()
    } catch (error) {
      this.#failures.push(String((error as Error).stack))
    } finally {
      process.off('unhandledRejection', onRejection)
    }
    return { failures: this.#failures, numCalls: this.#numCalls, counts: this.#counts }
  }

  // --- what is asked

  #plan(): void {
    const draw = this.#draw
    const numRequests = 4 + draw.below(this.#isChatty ? 6 : 14)
    const spreadMs = draw.of([0, 5, 40, 150])
    let at = 0
    for (let i = 0; i < numRequests; i++) {
      at += draw.chance(0.3) ? 0 : draw.random() * spreadMs
      const plan = this.#drawPlan(0)
      this.#clock.after(at, () => this.#ask(plan))
    }
    if (draw.chance(0.15)) this.#clock.after(draw.random() * at, () => this.#close())
  }

  #drawPlan(depth: number): Plan {
    const draw = this.#draw
    const owner = draw.of(this.#owners)
    const tokens = this.#drawPrompt(owner)
    const isGreedy = draw.chance(0.5)
    const request: GenerateRequest = {
      tokens,
      sampling: isGreedy
        ? { temperature: 0 }
        : { seed: draw.below(1000), ...(draw.chance(0.3) && { frequencyPenalty: 1, topK: 8 }) },
      stopTokens: this.#isChatty || draw.chance(0.5) ? [] : [draw.below(32), draw.below(32)],
      ...(draw.chance(0.9) && { maxTokens: draw.chance(0.1) ? 0 : this.#drawAnswer() }),
      ...(owner !== undefined && { owner }),
      ...(draw.chance(0.4) && { marks: [tokens.length - 1, tokens.length + 1, draw.below(tokens.length + 10)] }),
      ...(draw.chance(0.3) && { priority: draw.of(['interactive', 'background', 'droppable'] as const) }),
      ...(draw.chance(0.1) && { deadlineMs: 1 + draw.below(200) }),
      ...(draw.chance(0.05) && { mask: { type: 'tokens' as const, allowed: draw.chance(0.3) ? [] : [1, 2, 3] } }),
    }
    const plan: Plan = { request, by: draw.of(['submit', 'submit', 'generate', 'break'] as const) }
    if (draw.chance(0.3)) plan.leaves = this.#drawMoment()
    if (depth < 2 && draw.chance(0.25)) {
      plan.asks = { event: draw.below(12), turns: 1 + draw.below(6), plan: this.#drawPlan(depth + 1) }
    }
    const { tokens: answer } = this.#lone(request)
    this.#histories.push({ owner, tokens: [...tokens, ...answer] })
    return plan
  }

  #drawAnswer(): number {
    if (this.#isChatty) return this.#draw.below(this.#limits.contextLength / 2)
    return this.#draw.below(this.#draw.of([4, 20, 60]))
  }

  #drawMoment(): NonNullable<Plan['leaves']> {
    const draw = this.#draw
    return draw.chance(0.5) ? { afterMs: draw.random() * 60 } : { event: draw.below(15), turns: 1 + draw.below(8) }
  }

  /** One that begins as others do, or goes on from another. */
  #drawPrompt(owner: string | undefined): number[] {
    const draw = this.#draw
    const { contextLength } = this.#limits
    if (this.#isChatty && draw.chance(0.8)) return this.#some(1 + draw.below(8))
    const mine = this.#histories.filter(history => draw.chance(0.2) || history.owner === owner)
    const beginning = draw.chance(0.5) && mine.length > 0 ? draw.of(mine).tokens : draw.of(this.#beginnings)
    const kept = draw.chance(0.4) ? beginning : beginning.slice(0, draw.below(beginning.length + 1))
    const added = draw.below(draw.chance(0.2) ? contextLength / 2 : 12)
    return [...kept, ...this.#some(1 + added)].slice(0, contextLength - draw.below(5))
  }

  #some(count: number): number[] {
    return Array.from({ length: count }, () => this.#draw.below(this.#model?.config.vocabSize ?? 32))
  }

  /** What it gets when it is alone. */
  #lone({ tokens, maxTokens = Infinity, stopTokens = [], sampling, mask }: GenerateRequest): Watched['expected'] {
    const { sequences, config } = this.#model
    const room = Math.min(maxTokens, this.#limits.contextLength - tokens.length)
    const sampler = new Sampler(sampling ?? {}, config.vocabSize, mask && createMask(mask, config.vocabSize))
    let sequence = tokens.reduce((before, token) => sequences.and(before, token), 0)
    const answer: number[] = []
    while (answer.length < room) {
      if (mask?.allowed.length === 0) return { tokens: answer, reason: 'refused' }
      const { token } = sampler.sample(sequences.logits(sequence))
      answer.push(token)
      if (stopTokens.includes(token)) return { tokens: answer, reason: 'stop' }
      sequence = sequences.and(sequence, token)
    }
    return { tokens: answer, reason: 'length' }
  }

  #ask(plan: Plan): void {
    const { request, by, leaves } = plan
    const watched = new Watched(this.#watched.length, plan, this.#lone(request), this.#clock.now(), this.#clock.ticks)
    this.#watched.push(watched)
    this.#counts.requests++
    this.#say(
      `#${watched.number} asks (${by}): owner ${request.owner}, ${watched.priority}, ${request.tokens.length} tokens, ` +
        `up to ${request.maxTokens}${request.deadlineMs ? `, within ${request.deadlineMs} ms` : ''}`,
    )
    if (by === 'submit') {
      watched.leftBy = () => watched.job && this.#engine.cancel(watched.job)
      try {
        this.#engine.submit(request, () => {})
      } catch {
        return // seen already
      }
    } else {
      const controller = new AbortController()
      let breaksOff = false
      watched.leftBy = () => (by === 'break' ? (breaksOff = true) : controller.abort('enough'))
      void this.#read(watched, controller.signal, () => breaksOff)
    }
    if (leaves && 'afterMs' in leaves) this.#clock.after(leaves.afterMs, () => this.#leave(watched))
  }

  async #read(watched: Watched, signal: AbortSignal, breaksOff: () => boolean): Promise<void> {
    const seen: GenerateEvent[] = []
    try {
      for await (const event of this.#engine.generate(watched.plan.request, { signal })) {
        seen.push(event)
        if (breaksOff()) break
      }
      if (!breaksOff() && seen.at(-1)?.type !== 'end') this.#fail(watched, 'the reader was not told of the end')
    } catch (error) {
      const isOwn = signal.aborted && error === 'enough'
      if (!isOwn && error !== watched.error) this.#fail(watched, `the reader got ${error}, not ${watched.error}`)
    }
    const isPrefix = seen.every((event, i) => event === watched.events[i])
    if (!isPrefix) this.#fail(watched, 'the reader got other events')
  }

  #leave(watched: Watched): void {
    if (watched.outcome !== 'open') return
    this.#say(`#${watched.number} leaves`)
    watched.leftBy?.()
  }

  #close(): void {
    this.#say('the engine is closed')
    this.#isClosed = true
    this.#counts.closed++
    void this.#engine.close()
  }

  // --- what is heard

  #hear(watched: Watched, event: GenerateEvent): void {
    const { events, expected, plan } = watched
    this.#say(`#${watched.number} ${JSON.stringify(event)}`)
    const last = events.at(-1)
    if (watched.job?.isOver && event.type !== 'end') this.#fail(watched, `told ${event.type} after it was over`)
    if (last?.type === 'end') this.#fail(watched, `told ${event.type} after its end`)
    if (event.type === 'queued') this.#checkQueued(watched, event)
    else if (event.type === 'prefill') this.#checkPrefill(watched, event)
    else if (event.type === 'token') {
      const at = watched.tokens.length
      this.#counts.tokens++
      if (event.token !== expected.tokens[at]) {
        this.#fail(watched, `token ${at} is ${event.token}, alone it is ${expected.tokens[at]}`)
      }
      const progress = events.findLast(event => event.type === 'prefill')
      if (!progress || progress.done !== progress.total) this.#fail(watched, 'a token before the end of the prefill')
    } else this.#checkEnd(watched, event)
    events.push(event)
    if (event.type === 'token') watched.tokens.push(event.token)
    const at = events.length - 1
    if (plan.leaves && 'event' in plan.leaves && plan.leaves.event === at) {
      this.#soon(plan.leaves.turns, () => this.#leave(watched))
    }
    if (plan.asks?.event === at) {
      const { turns, plan: asked } = plan.asks
      this.#soon(turns, () => this.#ask(asked))
    }
  }

  /** So many turns of promises later. */
  #soon(turns: number, act: () => void): void {
    if (turns === 0) act()
    else queueMicrotask(() => this.#soon(turns - 1, act))
  }

  #checkQueued(watched: Watched, { ahead, waitMs }: Extract<GenerateEvent, { type: 'queued' }>): void {
    if (watched.hasBegun) this.#fail(watched, 'queued after it has begun')
    const last = watched.events.at(-1)
    if (last?.type === 'queued' && last.ahead === ahead) this.#fail(watched, `told twice that ${ahead} are ahead`)
    const isOnlyOwner = this.#owners.length === 1 && this.#watched.every(other => other.rank === 0)
    const { parked } = this.#engine.counts
    if (isOnlyOwner && parked === 0 && last?.type === 'queued' && ahead > last.ahead) {
      this.#fail(watched, `${ahead} are ahead, and ${last.ahead} were`)
    }
    const numWaiting = this.#watched.filter(other => other.outcome === 'open' && !other.isRunning).length
    if (ahead < 0 || ahead > numWaiting) this.#fail(watched, `${ahead} are ahead of it, and ${numWaiting} wait`)
    if (waitMs !== undefined && !(waitMs >= 0 && Number.isFinite(waitMs))) this.#fail(watched, `waits ${waitMs} ms`)
    if (!last) this.#counts.waited++
  }

  #checkPrefill(watched: Watched, { cached, done, total }: Extract<GenerateEvent, { type: 'prefill' }>): void {
    const { request } = watched.plan
    const before = watched.events.findLast(event => event.type === 'prefill')
    if (watched.tokens.length > 0) this.#fail(watched, 'prefill after a token')
    if (before) {
      if (before.cached !== cached || before.total !== total) this.#fail(watched, 'its prefill changed its numbers')
      if (done < before.done) this.#fail(watched, `${done} of the prompt are done, and ${before.done} were`)
    } else {
      this.#checkCached(watched, cached, total)
      this.#checkFairness(watched)
    }
    if (done > total || done < 0) this.#fail(watched, `${done} of ${total} are done`)
    if (cached + total < request.tokens.length) this.#fail(watched, `${cached} cached and ${total} to run are too few`)
  }

  #checkCached(watched: Watched, cached: number, total: number): void {
    const { tokens } = watched.plan.request
    const { owner } = watched
    const mine = this.#watched.filter(other => other !== watched && owner !== undefined && other.owner === owner)
    const most = mine.map(other => commonPrefix([...other.plan.request.tokens, ...other.tokens], tokens))
    if (cached > Math.max(0, ...most)) this.#fail(watched, `${cached} tokens were cached, that its owner never ran`)
    const { slidingWindow, numHiddenLayers } = this.#model.config
    const rebuilt = total - (tokens.length - cached)
    if (rebuilt > (numHiddenLayers / 2) * (slidingWindow - 1)) this.#fail(watched, `${rebuilt} tokens run again`)
    if (cached > 0) this.#counts.cached++
    if (rebuilt > 0) this.#counts.rebuilt++
    if (cached > 0 && mine.some(other => other.isRunning)) this.#counts.shared++
  }

  /** An owner who runs nothing is passed by each other owner once at most. */
  #checkFairness(begun: Watched): void {
    for (const watched of this.#watched) {
      const { owner, passedBy } = watched
      if (owner === begun.owner) passedBy.clear()
      else if (watched.isLive && !watched.isRunning && !watched.hasBegun && watched.rank === begun.rank) {
        const runsNothing = !this.#watched.some(other => other.owner === owner && other.isRunning)
        const times = (passedBy.get(begun.owner) ?? 0) + 1
        if (runsNothing) passedBy.set(begun.owner, times)
        else passedBy.clear()
        if (runsNothing && times > 1) this.#fail(watched, `owner ${begun.owner} has begun ${times} times before it`)
      }
    }
  }

  #checkEnd(watched: Watched, { reason, usage }: Extract<GenerateEvent, { type: 'end' }>): void {
    const { expected, tokens, plan } = watched
    if (reason === 'dropped') {
      this.#counts.dropped++
      if (watched.priority !== 'droppable') this.#fail(watched, 'dropped, and it was not droppable')
    } else {
      this.#counts.finished++
      if (reason !== expected.reason) this.#fail(watched, `ended with ${reason}, alone with ${expected.reason}`)
      if (tokens.length !== expected.tokens.length) {
        this.#fail(watched, `ended after ${tokens.length} tokens, alone after ${expected.tokens.length}`)
      }
    }
    const first = watched.events.find(event => event.type === 'prefill')
    const right = {
      promptTokens: plan.request.tokens.length,
      cachedTokens: first?.cached ?? 0,
      completionTokens: tokens.length,
    }
    if (JSON.stringify(usage) !== JSON.stringify(right)) {
      this.#fail(watched, `usage ${JSON.stringify(usage)}, it is ${JSON.stringify(right)}`)
    }
  }

  #settled(watched: Watched, error: unknown): void {
    if (watched.outcome !== 'open') this.#fail(watched, `settled again, it was ${watched.outcome}`)
    const last = watched.events.at(-1)
    watched.error = error
    if (error !== undefined) {
      watched.outcome = 'failed'
      this.#checkError(watched, error)
      if (last?.type === 'end') this.#fail(watched, 'failed after its end')
    } else if (last?.type === 'end') watched.outcome = 'ended'
    else {
      watched.outcome = 'left'
      this.#counts.cancelled++
    }
    this.#say(`#${watched.number} ${watched.outcome}${error ? `: ${error}` : ''}`)
  }

  #checkError(watched: Watched, error: unknown): void {
    const { request } = watched.plan
    const { message } = error as Error
    if (error instanceof RequestError && error.status === 504) {
      this.#counts.expired++
      const lateMs = this.#clock.now() - watched.atMs - (request.deadlineMs ?? Infinity)
      if (Math.abs(lateMs) > 1e-6) this.#fail(watched, `its deadline came ${lateMs} ms late`)
    } else if (error instanceof RequestError && error.param === 'mask') {
      if (watched.expected.reason !== 'refused') this.#fail(watched, `refused: ${message}`)
    } else if (error instanceof DeviceError && /closed/.test(message)) {
      if (!this.#isClosed) this.#fail(watched, 'rejected as closed')
    } else {
      this.#counts.failed++
      if (!this.#hasFaults && !/scripted device/.test(message)) this.#fail(watched, `failed: ${(error as Error).stack}`)
    }
  }

  // --- what runs

  #passBegins(batch: readonly Chunk[], urgent: boolean): Fate {
    const number = this.#numPasses++
    const members = batch.flatMap(chunk => this.#whoRuns(chunk, number) ?? [])
    const names = members.map(({ number }, i) => `#${number} ${batch[i].start}+${batch[i].tokens.length}`)
    this.#say(`pass ${number} (${urgent ? 'decode' : 'prefill'}): ${names.join(', ')}`)
    this.#checkPass(batch, members, number, urgent)
    this.#passes.set(batch, { number, members })
    for (const watched of this.#watched) {
      if (members.some(({ owner }) => owner === watched.owner)) watched.passedBy.clear()
    }
    if (!this.#hasFaults) return 'ok'
    const fate = this.#draw.of<Fate>([...Array(20).fill('ok'), 'fails', 'nan', 'slow', 'slow'])
    if (fate !== 'ok') this.#say(`pass ${number}: ${fate}`)
    return fate
  }

  #calls(what: 'cache' | 'pass' | 'layer' | 'memory'): void {
    const fails = this.#numCalls++ === this.#failAt
    const failsByChance = this.#hasFaults && what !== 'pass' && this.#draw.chance(0.001)
    if (!fails && !failsByChance) return
    this.#say(`${what} fails`)
    throw new DeviceError(`the scripted device failed (${what})`)
  }

  /** The request that a chunk belongs to, by what it runs. */
  #whoRuns({ start, tokens }: Chunk, number: number): Watched | undefined {
    const found = this.#watched.find(watched => {
      const { job } = watched
      if (job?.busyUntil !== start + tokens.length || this.#inPass.has(watched)) return false
      return tokens.every((token, i) => token === job.tokens[start + i])
    })
    if (!found) this.#failures.push(`pass ${number} runs ${tokens.length} tokens at ${start} for nobody`)
    else this.#inPass.add(found)
    return found
  }

  #passEnds(batch: readonly Chunk[]): void {
    // The scheduler hears of it a turn later.
    this.#soon(2, () => {
      const { number, members } = this.#passes.get(batch)!
      this.#passes.delete(batch)
      this.#say(`pass ${number} has ended`)
      for (const watched of members) this.#inPass.delete(watched)
    })
  }

  #checkPass(batch: readonly Chunk[], members: Watched[], number: number, urgent: boolean): void {
    const problem = (what: string) => this.#failures.push(`pass ${number}: ${what}`)
    const { maxChunk } = this.#limits
    const numTokens = batch.reduce((sum, { tokens }) => sum + tokens.length, 0)
    if (!urgent && numTokens > maxChunk) problem(`${numTokens} tokens, more than ${maxChunk}`)
    for (const { number, job } of members) {
      if (!job!.session) problem(`#${number} waits, and is run`)
      if (job!.isOver) problem(`#${number} is over, and is run`) // it leaves when the pass ends that it was in
    }
    // Whoever asked in this very moment was not there when the pass was chosen.
    const live = this.#watched.filter(watched => watched.isLive && watched.atTick < this.#clock.ticks)
    const best = Math.min(...live.map(watched => watched.rank))
    const worst = Math.max(...members.map(watched => watched.rank))
    if (worst > best) problem(`it runs ${worst} while ${best} is there`)
    if (worst > 0 && !urgent && numTokens > Math.ceil(maxChunk / 4)) problem(`${numTokens} tokens in the background`)
  }

  /** When everything of a moment has happened. False to go no further. */
  #afterMoment(): boolean {
    this.#failures.push(...this.#model.faults.splice(0))
    this.#checkMemory()
    this.#checkIdle()
    if (this.#clock.ticks > mostTicks) this.#failures.push('it does not end')
    return this.#failures.length === 0
  }

  #checkMemory(): void {
    const { cacheBytes } = this.#limits
    // The reference device copies what is forked, and others leave only then.
    const bytes = Math.max(this.#isCopying ? 0 : this.#mostBytes, this.#model.heldCacheBytes)
    this.#mostBytes = 0
    if (bytes > cacheBytes) this.#failures.push(`${bytes} bytes are held, of ${cacheBytes}`)
  }

  #checkIdle(): void {
    const { running, waiting } = this.#engine.load
    const numRunning = this.#watched.filter(({ job, isRunning }) => isRunning || job?.isBusy).length
    const numWaiting = this.#watched.filter(watched => watched.isLive && !watched.isRunning).length
    if (!this.#isClosed && (running !== numRunning || waiting !== numWaiting)) {
      this.#failures.push(`${running} run and ${waiting} wait, it should be ${numRunning} and ${numWaiting}`)
    }
    if (numRunning + numWaiting > 0) return
    if (this.#clock.numSleeping > 0) this.#failures.push(`idle, and ${this.#clock.numSleeping} timers are open`)
    if (this.#model.numOpen > 0) this.#failures.push('idle, and a pass is open')
  }

  async #finish(): Promise<void> {
    if (this.#failures.length > 0) return
    for (const watched of this.#watched) if (watched.outcome === 'open') this.#fail(watched, 'hangs')
    if (this.#failures.length > 0) return
    this.#checkCounts()
    let isClosed = false
    void this.#engine.close().then(() => (isClosed = true))
    await this.#clock.run()
    if (!isClosed) this.#failures.push('an idle engine does not close')
    if (this.#model.heldCacheBytes > 0) this.#failures.push(`${this.#model.heldCacheBytes} bytes are left`)
    if (this.#model.closed === 0) this.#failures.push('the model is not closed')
  }

  #checkCounts(): void {
    const { prefilled, decoded, parked } = this.#engine.counts
    this.#counts.parked += parked
    const isCalm = this.#watched.every(({ outcome, events }) => {
      const end = events.at(-1)
      return outcome === 'refused' || (outcome === 'ended' && end?.type === 'end' && end.reason !== 'dropped')
    })
    if (prefilled + decoded > this.#model.numTokens) this.#failures.push('more tokens are counted than ran')
    if (!isCalm || this.#isClosed) return
    if (prefilled + decoded !== this.#model.numTokens) this.#failures.push('fewer tokens are counted than ran')
    const firsts = this.#watched.flatMap(({ events }) => events.find(event => event.type === 'prefill') ?? [])
    const prompts = firsts.reduce((sum, { total }) => sum + total, 0)
    const steps = this.#watched.reduce((sum, { tokens }) => sum + Math.max(0, tokens.length - 1), 0)
    if (parked === 0 && prefilled !== prompts) this.#failures.push(`${prefilled} were prefilled, and not ${prompts}`)
    if (parked === 0 && decoded !== steps) this.#failures.push(`${decoded} were decoded, and not ${steps}`)
  }

  #fail({ number }: Watched, what: string): void {
    this.#failures.push(`request #${number}: ${what}`)
  }

  #say(line: string): void {
    this.#tell?.(`${this.#clock.now().toFixed(2).padStart(9)} ms  ${line}`)
  }
}
