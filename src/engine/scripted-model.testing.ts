import { CpuCache, PageStore, pageTokens } from '../device/cpu-cache.ts'
import { ReferenceDevice } from '../device/reference.ts'
import type { ReferenceCache } from '../kernels/attention/cache.ref.ts'
import type { AttentionShape, Device, LayerCache } from '../kernels/ops.ts'
import type { ModelConfig } from '../model/config.ts'
import { KvCache, snapshotTokens } from '../model/kv-cache.ts'
import type { ShouldStop } from '../model/stop.ts'
import type { Chunk } from '../model/transformer.ts'
import type { Clock } from './clock.ts'
import type { ServedModel } from './scheduler.ts'
import { smallConfig } from './testing.ts'

interface Due {
  at: number
  run: () => void
}

/** Time that goes on only when all that can happen at a moment has happened: every run of a seed is the same. */
export class SimulatedClock implements Clock {
  /** Moments that have been. */
  ticks = 0
  /** Sleeps that are neither over nor cancelled. */
  numSleeping = 0
  readonly #random: () => number
  #now = 0
  #due: Due[] = [] // by time, then in the order of asking

  constructor(random: () => number) {
    this.#random = random
  }

  now(): number {
    return this.#now
  }

  /** Calls `run` after so many milliseconds, unless what this gives is called first. */
  after(ms: number, run: () => void): () => void {
    const due = { at: this.#now + Math.max(0, ms), run }
    const later = this.#due.findIndex(other => other.at > due.at)
    this.#due.splice(later < 0 ? this.#due.length : later, 0, due)
    return () => {
      this.#due = this.#due.filter(other => other !== due)
    }
  }

  sleep(ms: number): { over: Promise<void>; cancel: () => void } {
    const { promise: over, resolve } = Promise.withResolvers<void>()
    let isOpen = true
    const end = () => {
      if (isOpen) this.numSleeping--
      isOpen = false
      resolve()
    }
    this.numSleeping++
    const forget = this.after(ms, end)
    const cancel = () => {
      forget()
      end()
    }
    return { over, cancel }
  }

  /** What a model computes takes time. */
  work(ms: number): Promise<void> {
    return new Promise(resolve => this.after(ms, resolve))
  }

  turn(): Promise<void> | undefined {
    return this.#random() < 0.3 ? this.work(0) : undefined
  }

  /** Lets time pass until nothing is due any more; `each` is called when a moment's work is done, and may end it. */
  async run(each: () => boolean = () => true): Promise<void> {
    for (;;) {
      await new Promise(resolve => setImmediate(resolve)) // behind all that waits for promises
      if (!each()) return
      const next = this.#due.shift()
      if (!next) return
      this.#now = next.at
      this.ticks++
      next.run()
    }
  }
}

/** Sequences of tokens by number. A cache holds them in place of keys and values: at position p the one of p + 1 tokens. */
class Sequences {
  readonly #vocabSize: number
  readonly #parents = [0]
  readonly #hashes = [0x2545f491]
  readonly #children = new Map<number, number>()

  constructor(vocabSize: number) {
    this.#vocabSize = vocabSize
  }

  /** This sequence and a token behind it; 0 is the empty one. */
  and(sequence: number, token: number): number {
    const key = sequence * this.#vocabSize + token
    const known = this.#children.get(key)
    if (known !== undefined) return known
    const next = this.#parents.push(sequence) - 1
    this.#hashes.push(mixed(this.#hashes[sequence] ^ mixed(token + 1)))
    this.#children.set(key, next)
    return next
  }

  /** It without its last token. */
  without(sequence: number): number {
    return this.#parents[sequence]
  }

  /** What comes next depends on every token. */
  logits(sequence: number): Float32Array {
    const hash = this.#hashes[sequence]
    return Float32Array.from({ length: this.#vocabSize }, (_, id) => (mixed(hash + id) / 2 ** 32) * 8 - 4)
  }
}

function mixed(bits: number): number {
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b)
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35)
  return (bits ^ (bits >>> 16)) >>> 0
}

/** What a layer holds of a position: the sequence that ends there, and whether it was computed from all that it sees. */
interface Entry {
  sequence: number
  isExact: boolean
}

/** The caches of a device, holding entries. */
interface Shelf extends Pick<Device, 'newCache' | 'cacheBytes' | 'snapshotBytes' | 'heldCacheBytes'> {
  /** Makes room for positions that a pass is about to write. */
  prepare(cache: LayerCache, start: number, count: number): void
  write(cache: LayerCache, position: number, entry: Entry): void
  read(cache: LayerCache, position: number): Entry
}

/** Caches of the reference device, one number in each key and value. */
class FloatShelf extends ReferenceDevice implements Shelf {
  prepare(): void {}

  write(cache: ReferenceCache, position: number, { sequence, isExact }: Entry): void {
    cache.write(position, Float32Array.of(sequence, isExact ? 1 : 0), 0, 1)
  }

  read(cache: ReferenceCache, position: number): Entry {
    const at = cache.offset(position)
    return { sequence: cache.keys[at], isExact: cache.values[at] === 1 }
  }
}

/** Caches of the cpu device, whose pages are arrays. */
class PageShelf implements Shelf {
  readonly #pages = new Map<number, Entry[]>()
  readonly #store: PageStore
  #numTaken = 0

  /** `onTake` is called before a page is taken, and may throw. */
  constructor(onTake: () => void) {
    this.#store = new PageStore({
      pageBytes: pageTokens,
      take: () => {
        onTake()
        this.#pages.set(this.#numTaken, [])
        return this.#numTaken++
      },
      give: page => void this.#pages.delete(page),
      copy: (from, to) => void this.#pages.set(to, [...this.#pages.get(from)!]),
      tokenBytes: 0,
      readTokens: nothingIsSaved,
      writeTokens: nothingIsSaved,
    })
  }

  get heldCacheBytes(): number {
    return this.#store.bytes()
  }

  newCache({ window }: AttentionShape, maxChunk: number): CpuCache {
    return new CpuCache(this.#store, window, maxChunk)
  }

  cacheBytes(_: AttentionShape, tokens: number): number {
    return this.#store.bytes(Math.ceil(tokens / pageTokens))
  }

  snapshotBytes(shape: AttentionShape, tokens: number): number {
    return this.cacheBytes(shape, tokens - 1 + pageTokens)
  }

  prepare(cache: CpuCache, start: number, count: number): void {
    cache.prepare(start, count)
  }

  write(cache: CpuCache, position: number, entry: Entry): void {
    if (position >= cache.length) this.#page(cache, position)[position % pageTokens] = entry
  }

  read(cache: CpuCache, position: number): Entry {
    return this.#page(cache, position)[position % pageTokens] ?? { sequence: 0, isExact: false }
  }

  #page({ pages, capacity }: CpuCache, position: number): Entry[] {
    return this.#pages.get(pages[Math.floor((position % capacity) / pageTokens)])!
  }
}

/** What becomes of a pass. */
export type Fate = 'ok' | 'fails' | 'nan' | 'slow'

export interface ScriptedModelOptions {
  clock: SimulatedClock
  /** Whose caches: `reference` copies what is forked, `cpu` shares pages of 64 tokens until they are written. */
  device: 'reference' | 'cpu'
  /** The device is given a pass as a whole, and works on while others' passes run. */
  isLate: boolean
  window: number
  contextLength: number
  /** Told of each pass before it runs. */
  onPass(batch: readonly Chunk[], urgent: boolean): Fate
  onPassEnd?(batch: readonly Chunk[]): void
  /** Called before each of the device's acts, and may throw. */
  onCall?(what: 'cache' | 'pass' | 'layer' | 'memory'): void
}

/** Milliseconds that a layer takes. */
const layerMs = { pass: 0.3, token: 0.05, slow: 10 }

/**
 * A model of two windowed and two full layers without any arithmetic. Its layers hold which sequence ends at each position,
 * in the caches of real devices; a pass looks at everything that every position sees, and what comes next is a hash of the
 * whole sequence.
 */
export class ScriptedModel implements ServedModel {
  readonly config: ModelConfig
  readonly shelf: Shelf
  readonly sequences: Sequences
  /** What passes saw that they must not see, by position. */
  readonly faults: string[] = []
  /** Passes that are under way, and tokens of those that were finished. */
  numOpen = 0
  numTokens = 0
  closed = 0
  readonly #options: ScriptedModelOptions

  constructor(options: ScriptedModelOptions) {
    const sizes = { numAttentionHeads: 1, numKeyValueHeads: 1, headDim: 1 }
    const { window: slidingWindow, contextLength: maxPositionEmbeddings } = options
    this.config = { ...smallConfig, ...sizes, numHiddenLayers: 4, vocabSize: 32, slidingWindow, maxPositionEmbeddings }
    this.#options = options
    this.shelf = options.device === 'reference' ? new FloatShelf() : new PageShelf(() => options.onCall?.('memory'))
    this.sequences = new Sequences(this.config.vocabSize)
  }

  get heldCacheBytes(): number {
    return this.shelf.heldCacheBytes
  }

  newCache(maxChunk: number): KvCache {
    this.#options.onCall?.('cache')
    const { numHiddenLayers, slidingWindow } = this.config
    const shapes = Array.from({ length: numHiddenLayers }, (_, n) =>
      this.#shape(n % 2 === 0 ? slidingWindow : Infinity),
    )
    const snapshot = this.shelf.snapshotBytes(shapes[0], snapshotTokens(slidingWindow))
    return new KvCache(
      shapes.map(shape => this.shelf.newCache(shape, maxChunk)),
      maxChunk,
      (numHiddenLayers / 2) * snapshot,
    )
  }

  #shape(window: number): AttentionShape {
    return { numAttentionHeads: 1, numKeyValueHeads: 1, headDim: 1, window }
  }

  async forward(
    batch: readonly Chunk[],
    shouldStop: ShouldStop = () => false,
    { urgent = false } = {},
  ): Promise<Float32Array | undefined> {
    this.#options.onCall?.('pass')
    const fate = this.#options.onPass(batch, urgent)
    this.numOpen++
    try {
      return await this.#forward(batch, shouldStop, fate)
    } finally {
      this.numOpen--
      this.#options.onPassEnd?.(batch)
    }
  }

  async #forward(batch: readonly Chunk[], shouldStop: ShouldStop, fate: Fate): Promise<Float32Array | undefined> {
    const { clock, isLate } = this.#options
    const { numHiddenLayers } = this.config
    const pieces = batch.map(chunk => new Piece(chunk, this))
    const numTokens = batch.reduce((sum, { tokens }) => sum + tokens.length, 0)
    const ms = (layerMs.pass + layerMs.token * numTokens) * (fate === 'slow' ? layerMs.slow : 1)
    const stop = isLate ? asked(shouldStop) : shouldStop
    for (let layer = 0; isLate && layer < numHiddenLayers; layer++) {
      if (await shouldStop()) return undefined
      for (const piece of pieces) piece.prepare(layer)
    }
    for (let layer = 0; layer < numHiddenLayers; layer++) {
      if (await stop()) return undefined
      await clock.work(ms)
      this.#options.onCall?.('layer')
      if (fate === 'fails' && layer === numHiddenLayers - 1) throw new Error('the scripted device failed')
      for (const piece of pieces) piece.run(layer)
    }
    if (await stop()) return undefined
    for (const { chunk } of pieces) chunk.cache.commit(chunk.start + chunk.tokens.length)
    this.numTokens += numTokens
    const rows = pieces.filter(({ chunk }) => chunk.logits === 'last').map(piece => piece.logits())
    const logits = Float32Array.from(rows.flatMap(row => [...row]))
    return fate === 'nan' ? logits.fill(Number.NaN) : logits
  }

  fault(what: string): never {
    this.faults.push(what)
    throw new Error(what)
  }

  close(): void {
    this.closed++
  }
}

/** One that is asked while the work goes on: it says what it was answered last. */
function asked(shouldStop: ShouldStop): () => boolean {
  let isAsking = false
  let answer = false
  return () => {
    if (!isAsking) {
      isAsking = true
      void Promise.resolve(shouldStop()).then(stops => {
        answer = stops
        isAsking = false
      })
    }
    return answer
  }
}

/** A chunk on its way through the layers. */
class Piece {
  readonly chunk: Chunk
  readonly #model: ScriptedModel
  /** The sequence up to each position, and whether each of the chunk's has seen all that it should. */
  readonly #sequences: number[] = []
  readonly #isExact: boolean[]

  constructor(chunk: Chunk, model: ScriptedModel) {
    const { cache, tokens, start } = chunk
    this.chunk = chunk
    this.#model = model
    if (tokens.length > cache.maxChunk) model.fault(`a chunk of ${tokens.length} tokens, more than ${cache.maxChunk}`)
    if (start > cache.length) model.fault(`a chunk begins at ${start}, and only ${cache.length} tokens are held`)
    const [, full] = cache.layers
    let sequence = start === 0 ? 0 : model.shelf.read(full, start - 1).sequence
    for (let p = start - 1, known = sequence; p >= 0; p--, known = model.sequences.without(known)) {
      this.#sequences[p] = known
    }
    for (const [i, token] of tokens.entries())
      this.#sequences[start + i] = sequence = model.sequences.and(sequence, token)
    this.#isExact = tokens.map(() => true)
  }

  prepare(layer: number): void {
    const { cache, start, tokens } = this.chunk
    this.#model.shelf.prepare(cache.layers[layer], start, tokens.length)
  }

  run(layer: number): void {
    const { start, tokens } = this.chunk
    const cache = this.chunk.cache.layers[layer]
    this.prepare(layer)
    for (let i = 0; i < tokens.length; i++) this.#write(layer, cache, start + i)
    if (Number.isFinite(cache.window)) for (let i = 0; i < tokens.length; i++) this.#seeWindow(layer, cache, start + i)
    else for (let q = 0; q < start + tokens.length; q++) this.#look(layer, cache, q)
  }

  #write(layer: number, cache: LayerCache, position: number): void {
    const isExact = this.#isExact[position - this.chunk.start]
    if (position >= cache.length && !isExact && !Number.isFinite(cache.window)) {
      this.#model.fault(`layer ${layer}, position ${position}: computed from windows that begin too late`)
    }
    this.#model.shelf.write(cache, position, { sequence: this.#sequences[position], isExact })
  }

  #seeWindow(layer: number, cache: LayerCache, position: number): void {
    const begin = Math.max(0, position - cache.window + 1)
    let seesAll = cache.first <= begin
    for (let q = Math.max(begin, cache.first); q <= position; q++) seesAll = this.#look(layer, cache, q) && seesAll
    if (!seesAll) this.#isExact[position - this.chunk.start] = false
  }

  /** Whether what is seen there is exact; it has to be there. */
  #look(layer: number, cache: LayerCache, position: number): boolean {
    const { sequence, isExact } = this.#model.shelf.read(cache, position)
    if (sequence !== this.#sequences[position]) {
      this.#model.fault(`layer ${layer}, position ${position}: it holds another sequence (${sequence})`)
    }
    return isExact
  }

  logits(): Float32Array {
    const last = this.#isExact.length - 1
    if (!this.#isExact[last]) this.#model.fault('logits from windows that begin too late')
    return this.#model.sequences.logits(this.#sequences[this.chunk.start + last])
  }
}

function nothingIsSaved(): never {
  throw new Error('nothing is saved here')
}
