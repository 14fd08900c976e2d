import type { SealedReader, SealedWriter } from '../base/sealed.ts'
import type { LayerCache, LayerSnapshot } from '../kernels/ops.ts'

/** Snapshots that one sequence keeps. */
export const maxSnapshots = 4
/** Marks so close together share a snapshot. */
const sharedWithin = 2 // tokens: as far as a conversation's two forks at an answer lie apart

/** Tokens that a snapshot of a layer with this window holds at most. */
export const snapshotTokens = (window: number): number => window - 1 + sharedWithin

/** What a cache at rest holds, but for the numbers. */
export interface CacheOutline {
  readonly length: number
  /** Where snapshots of the windows are: going on is exact anywhere from `from` up to `position`. Rising. */
  readonly marks: readonly { readonly from: number; readonly position: number }[]
}

/** Whether there can be such a cache. */
export function isOutline({ length, marks }: CacheOutline): boolean {
  const isRising = marks.every(({ position }, i) => i === 0 || marks[i - 1].position <= position)
  const areWithin = marks.every(({ from, position }) => {
    return 0 < from && position - sharedWithin <= from && from <= position && position <= length
  })
  return length > 0 && marks.length <= maxSnapshots && isRising && areWithin
}

/** Read or written at a time, about. */
const pieceBytes = 2 ** 20

/** Positions of one layer that are saved as a section. */
interface Section {
  readonly layer: LayerCache
  readonly first: number
  readonly length: number
}

/**
 * Keys and values of one sequence in all layers.
 *
 * Full layers hold every position, so they can be cut anywhere. Windowed layers are rings that hold little more than
 * their window: where a ring has dropped what an earlier position sees, tokens before it must run again. A windowed layer
 * sees window − 1 tokens back, and what it sees comes from windowed layers below that see as far again: windows that
 * begin empty are exact only Σ(window − 1) tokens later, unless they begin at the first token. Where somebody means to
 * come back, a snapshot of the windows spares all that: `mark`. Forks share the full layers' memory and the snapshots.
 */
export class KvCache {
  readonly layers: readonly LayerCache[]
  /** Tokens that the windowed layers can take at once. */
  readonly maxChunk: number
  readonly #full: readonly LayerCache[]
  readonly #windowed: readonly LayerCache[]
  /** Tokens that windows which began empty must run before they are exact. */
  readonly #reach: number
  /** Where the windows last began empty; 0 also where they were restored, for they are as exact then. */
  #start = 0
  #length = 0
  #snapshots: Snapshot[] = [] // by position

  readonly #snapshotBytes: number

  /** `snapshotBytes`: what a snapshot of all windowed layers takes at most. */
  constructor(layers: readonly LayerCache[], maxChunk: number, snapshotBytes = 0) {
    const isWindowed = (layer: LayerCache) => Number.isFinite(layer.window)
    this.layers = layers
    this.maxChunk = maxChunk
    this.#snapshotBytes = snapshotBytes
    this.#full = layers.filter(layer => !isWindowed(layer))
    this.#windowed = layers.filter(isWindowed)
    this.#reach = this.#windowed.reduce((sum, layer) => sum + layer.window - 1, 0)
  }

  /** Tokens held; what `rewind` may be asked for. */
  get length(): number {
    return this.#length
  }

  /**
   * Forgets everything from `position` on. Returns where running must resume so that everything from `position` on is
   * exact, the latest of these: where the windows stand or, if they still hold what it sees, `position`; the last mark;
   * min(position, Σ(window − 1)) tokens before it. The full layers keep what they have of the tokens that run again.
   */
  rewind(position: number): number {
    const { at, windows } = this.#resume(position)
    this.#length = position
    for (const layer of this.#full) layer.truncate(position)
    this.#forgetMarks(position)
    for (const [n, layer] of this.#windowed.entries()) {
      if (windows === 'empty') layer.restart(at)
      else if (windows !== 'kept') layer.restore(windows.layers[n])
      layer.truncate(at)
    }
    if (windows === 'empty') this.#start = at
    else if (windows !== 'kept') this.#start = 0
    return at
  }

  /** How many tokens would have to run again for `rewind(position)`. */
  cost(position: number): number {
    return position - this.#resume(position).at
  }

  /** Bytes that it takes more, at most, to hold `length` tokens and all the snapshots that it may keep. */
  growth(length: number): number {
    const numSnapshots = maxSnapshots - this.#snapshots.length
    return this.layers.reduce((sum, layer) => sum + layer.growth(length), numSnapshots * this.#snapshotBytes)
  }

  /** Where `rewind(position)` resumes, and what the windows begin with there. */
  #resume(position: number): { at: number; windows: 'kept' | 'empty' | Windows } {
    if (!(position <= this.#length)) {
      throw new RangeError(`cannot rewind to ${position}: ${this.#length} tokens are held`)
    }
    const restart = Math.max(0, position - this.#reach)
    const snapshot = this.#snapshots.findLast(({ from }) => from <= position)
    const marked = Math.min(position, snapshot?.position ?? 0)
    const here = Math.min(position, this.#reached)
    const canGoOn = this.#start <= restart && this.#see(here)
    if (canGoOn && here >= Math.max(marked, restart)) return { at: here, windows: 'kept' }
    if (snapshot && marked >= restart) return { at: marked, windows: snapshot.windows }
    return { at: restart, windows: 'empty' }
  }

  /**
   * Another cache that holds what this one does below `position`, and shares with it what it can. Its rings are empty:
   * `rewind(position)` comes first there too, and costs what it would here, but for a rebuild that is under way. This one
   * stays as it is, and a pass may be running over it.
   */
  fork(position: number): KvCache {
    const { at, windows } = this.#resume(position)
    const layers = this.layers.map(layer => layer.fork(position))
    const fork = new KvCache(layers, this.maxChunk, this.#snapshotBytes)
    fork.#length = position
    for (const { from, position: to, windows } of this.#snapshots) {
      if (from > position) continue
      windows.numHolders++
      fork.#snapshots.push({ from, position: Math.min(to, position), windows })
    }
    if (windows === 'kept' && at > 0 && this.#areExactAt(at) && !fork.#isMarked(at)) fork.#keep(this.#snapshot(at, at))
    return fork
  }

  /**
   * Gives the rings back, for as long as nothing runs. Where they stand is marked: going on from there costs nothing if
   * they were exact.
   */
  rest(): void {
    this.mark(this.#reached)
    for (const layer of this.#windowed) layer.restart(0)
    this.#start = 0
  }

  get outline(): CacheOutline {
    return { length: this.#length, marks: this.#snapshots.map(({ from, position }) => ({ from, position })) }
  }

  /** Bytes that `save` writes of a cache of this model, and the number of sections. */
  savedSize(outline: CacheOutline): { bytes: number; numSections: number } {
    const sections = [...this.#fullSections(outline), ...outline.marks.flatMap(mark => this.#windowSections(mark))]
    const bytes = sections.reduce((sum, { layer, first, length }) => sum + (length - first) * layer.tokenBytes, 0)
    return { bytes, numSections: sections.length }
  }

  #fullSections({ length }: CacheOutline): Section[] {
    return this.#full.map(layer => ({ layer, first: 0, length }))
  }

  /** What a mark's snapshot has of each windowed layer. */
  #windowSections({ from, position }: CacheOutline['marks'][number]): Section[] {
    return this.#windowed.map(layer => ({ layer, first: Math.max(0, from - layer.window + 1), length: position }))
  }

  /** Writes what `outline` tells of; nobody may run this cache meanwhile. What its rings hold beside that is lost; see `rest`. */
  async save(to: SealedWriter): Promise<void> {
    for (const section of this.#fullSections(this.outline)) await save(section, to)
    for (const { windows, ...mark } of this.#snapshots) {
      for (const [n, { layer, first, length }] of this.#windowSections(mark).entries()) {
        const ring = layer.fork(0)
        try {
          ring.restore(windows.layers[n])
          await save({ layer: ring, first, length }, to)
        } finally {
          ring.dispose()
        }
      }
    }
  }

  /** Fills this cache, which is empty, with what `save` wrote of one with this outline, and rests. */
  async load(outline: CacheOutline, from: SealedReader): Promise<void> {
    for (const section of this.#fullSections(outline)) await load(section, from)
    this.#length = outline.length
    for (const { from: earliest, position } of outline.marks) {
      for (const section of this.#windowSections({ from: earliest, position })) {
        section.layer.restart(section.first)
        await load(section, from)
      }
      // Rings that take a token at a time hold no more than one window.
      this.#keep(this.#snapshot(Math.max(earliest, position - this.maxChunk), position))
    }
    for (const layer of this.#windowed) layer.restart(0)
  }

  /**
   * Keeps a snapshot of the windows, so that `rewind(position)` costs nothing for as long as the tokens before it stay.
   * Does nothing where the windows are not exact or hold no longer what is seen there.
   */
  mark(position: number): void {
    if (!(position > 0 && position <= this.#reached && this.#areExactAt(position))) return
    if (this.#isMarked(position)) return
    const close = this.#snapshots.filter(({ from, position: to }) => {
      return from >= position - sharedWithin && to < position && this.#areExactAt(from)
    })
    const from = Math.min(position, ...close.map(snapshot => snapshot.from))
    const snapshot = this.#snapshot(from, position)
    for (const snapshot of close) this.#drop(snapshot)
    this.#keep(snapshot)
  }

  #isMarked(position: number): boolean {
    return this.#snapshots.some(({ from, position: to }) => from <= position && position <= to)
  }

  #snapshot(from: number, position: number): Snapshot {
    const layers = this.#windowed.map(layer => layer.snapshot(Math.max(0, from - layer.window + 1), position))
    return { from, position, windows: { layers, numHolders: 1 } }
  }

  #keep(snapshot: Snapshot): void {
    this.#snapshots.push(snapshot)
    this.#snapshots.sort((a, b) => a.position - b.position)
    if (this.#snapshots.length > maxSnapshots) this.#drop(this.#leastUseful(snapshot.position))
  }

  /** Up to where the windows have run: they lag behind the full layers while they are run again. */
  get #reached(): number {
    return this.#windowed.reduce((least, layer) => Math.min(least, layer.length), this.#length)
  }

  /** Whether the windows hold all that the token at `position` sees, as if they had never begun empty. */
  #areExactAt(position: number): boolean {
    return this.#start <= Math.max(0, position - this.#reach) && this.#see(position)
  }

  /** Whether the rings still hold what the token at `position` sees of the tokens since the windows began. */
  #see(position: number): boolean {
    return this.#windowed.every(layer => layer.first <= Math.max(this.#start, position - layer.window + 1))
  }

  /** Snapshots reach no further than the tokens that stay. */
  #forgetMarks(position: number): void {
    for (const snapshot of this.#snapshots) {
      if (snapshot.from > position) this.#drop(snapshot)
      else snapshot.position = Math.min(snapshot.position, position)
    }
  }

  /** The snapshot that spares the fewest tokens, but for the one at `newest`; of equals the first. */
  #leastUseful(newest: number): Snapshot {
    let least: Snapshot | undefined
    let fewest = Infinity
    let before = 0
    for (const snapshot of this.#snapshots) {
      const spared = Math.min(snapshot.position - before, this.#reach)
      before = snapshot.position
      if (spared >= fewest || snapshot.position === newest) continue
      least = snapshot
      fewest = spared
    }
    return least!
  }

  #drop(snapshot: Snapshot): void {
    this.#snapshots = this.#snapshots.filter(other => other !== snapshot)
    if (--snapshot.windows.numHolders > 0) return
    for (const layer of snapshot.windows.layers) layer.dispose()
  }

  /** Accepts what a forward pass has written up to `length`. */
  commit(length: number): void {
    for (const layer of this.layers) layer.commit(length)
    this.#length = Math.max(this.#length, length)
  }

  dispose(): void {
    for (const snapshot of this.#snapshots) this.#drop(snapshot)
    for (const layer of this.layers) layer.dispose()
  }
}

/** What the windowed layers held, enough for every position from `from` to `position`. */
interface Snapshot {
  readonly from: number
  position: number
  readonly windows: Windows
}

/** A snapshot of each windowed layer, for all forks that hold it. */
interface Windows {
  readonly layers: readonly LayerSnapshot[]
  numHolders: number
}

async function save({ layer, first, length }: Section, to: SealedWriter): Promise<void> {
  for (const [begin, end] of pieces(layer, first, length)) await to.write(await layer.save(begin, end))
  await to.seal()
}

async function load({ layer, first, length }: Section, from: SealedReader): Promise<void> {
  for (const [begin, end] of pieces(layer, first, length)) layer.load(await from.read((end - begin) * layer.tokenBytes))
  await from.checkSeal()
}

function* pieces({ tokenBytes }: LayerCache, first: number, length: number): Generator<[begin: number, end: number]> {
  const step = Math.max(1, Math.floor(pieceBytes / tokenBytes))
  for (let begin = first; begin < length; begin += step) yield [begin, Math.min(length, begin + step)]
}
