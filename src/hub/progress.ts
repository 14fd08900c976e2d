/** How far a download is. */
export interface PullProgress {
  /** `checking`: hashing what was there already, or what has come. */
  step: 'downloading' | 'checking'
  /** The file at work. */
  file: string
  /** Bytes that are there, and of all files. */
  doneBytes: number
  totalBytes: number
  /** Bytes whose hashes were computed. */
  checkedBytes: number
  /** Over the last seconds; undefined until it can be told. */
  bytesPerSecond?: number
  secondsLeft?: number
}

const everyMs = 200
const windowMs = 10_000
const leastMs = 1000

/** Counts what comes and what is checked, and tells a few times a second. */
export class ProgressMeter {
  readonly #onProgress: ((progress: PullProgress) => void) | undefined
  readonly #now: () => number
  readonly #speeds: { downloading: Speed; checking: Speed }
  #state: PullProgress = { step: 'downloading', file: '', doneBytes: 0, totalBytes: 0, checkedBytes: 0 }
  #toldAt = -Infinity
  #receivedAt = -Infinity
  #checkedAt = -Infinity

  constructor(onProgress?: (progress: PullProgress) => void, now = () => performance.now()) {
    this.#onProgress = onProgress
    this.#now = now
    this.#speeds = { downloading: new Speed(), checking: new Speed() }
  }

  expect(bytes: number): void {
    this.#state.totalBytes += bytes
  }

  /** Something was there. */
  found(bytes: number): void {
    this.#state.doneBytes += bytes
  }

  received(file: string, bytes: number): void {
    const now = this.#now()
    this.#state.doneBytes += bytes
    if (this.#state.step !== 'downloading') this.#speeds.downloading.begin(now)
    this.#receivedAt = now
    this.#advance('downloading', file, bytes)
  }

  /** While other files come, it is told that they do. */
  checked(file: string, bytes: number): void {
    const now = this.#now()
    this.#state.checkedBytes += bytes
    if (now - this.#checkedAt > leastMs) this.#speeds.checking.begin(now)
    this.#checkedAt = now
    this.#advance('checking', file, bytes)
  }

  /** Tells now. */
  tell(): void {
    const { doneBytes, totalBytes, checkedBytes, step } = this.#state
    this.#toldAt = this.#now()
    const [download, check] = [this.#speeds.downloading.now(), this.#speeds.checking.now()]
    const secondsFor = (left: number, speed: number) => (left > 0 ? left / speed : 0)
    // One file is hashed while the next one comes.
    const secondsLeft = Math.max(
      secondsFor(totalBytes - doneBytes, download ?? 0),
      secondsFor(totalBytes - checkedBytes, check ?? Infinity),
    )
    const bytesPerSecond = step === 'downloading' ? download : check
    this.#onProgress?.({
      ...this.#state,
      bytesPerSecond,
      secondsLeft: Number.isFinite(secondsLeft) ? secondsLeft : undefined,
    })
  }

  #advance(step: PullProgress['step'], file: string, bytes: number): void {
    const now = this.#now()
    if (step === 'downloading' || now - this.#receivedAt > leastMs) Object.assign(this.#state, { step, file })
    this.#speeds[step].add(bytes, now)
    if (now - this.#toldAt >= everyMs) this.tell()
  }
}

/** Bytes a second over the last seconds in which this went on. */
class Speed {
  #samples: { at: number; bytes: number }[] = []
  #total = 0

  /** Time in which other things went on does not count. */
  begin(now: number): void {
    const last = this.#samples.at(-1)
    const idle = last ? now - last.at : 0
    this.#samples = this.#samples.map(({ at, bytes }) => ({ at: at + idle, bytes }))
  }

  add(bytes: number, now: number): void {
    this.#total += bytes
    const last = this.#samples.at(-1)
    if (last && this.#samples.length > 1 && now - last.at < everyMs / 2) last.bytes = this.#total
    else this.#samples.push({ at: now, bytes: this.#total })
    while (this.#samples.length > 2 && now - this.#samples[1].at > windowMs) this.#samples.shift()
  }

  now(): number | undefined {
    const [first, last] = [this.#samples[0], this.#samples.at(-1)]
    if (!first || !last || last.at - first.at < leastMs) return undefined
    const speed = (1000 * (last.bytes - first.bytes)) / (last.at - first.at)
    return speed > 0 ? speed : undefined
  }
}
