import type { AttentionShape, LayerCache, LayerSnapshot } from '../ops.ts'

const step = 64 // tokens: room is made for so many at a time, later in a full cache for a sixteenth of what it has

/** Tokens for which a cache that has grown to `tokens` has room at most. */
export function roomFor(tokens: number, window: number): number {
  const inSteps = Math.ceil(tokens / step) * step
  return Number.isFinite(window) ? inSteps : Math.ceil((inSteps * 17) / 16)
}

/** What caches and snapshots hold together. */
export interface Account {
  bytes: number
}

/** Keys and values in float32, [room, numKeyValueHeads · headDim] each. */
export class ReferenceCache implements LayerCache {
  readonly window: number
  /** Numbers per token in `keys`, and in `values`. */
  readonly width: number
  keys = new Float32Array(0)
  values = new Float32Array(0)
  first = 0
  length = 0
  readonly #shape: AttentionShape
  readonly #maxChunk: number
  readonly #account: Account
  /** Positions p and p + capacity share a place. */
  readonly #capacity: number

  constructor(shape: AttentionShape, maxChunk: number, account: Account = { bytes: 0 }) {
    this.#shape = shape
    this.#maxChunk = maxChunk
    this.#account = account
    this.window = shape.window
    this.width = shape.numKeyValueHeads * shape.headDim
    // A chunk of n tokens needs the window − 1 before its first token, and itself.
    this.#capacity = Number.isFinite(shape.window) ? shape.window - 1 + maxChunk : Infinity
  }

  /** Where the key (or value) of a position begins. */
  offset(position: number): number {
    return (position % this.#capacity) * this.width
  }

  /** Stores one position's key and value, unless the position is taken already. */
  write(position: number, qkv: Float32Array, keyAt: number, valueAt: number): void {
    if (position < this.length) return
    this.first = Math.max(this.first, position + 1 - this.#capacity)
    this.#makeRoom(position)
    const at = this.offset(position)
    this.keys.set(qkv.subarray(keyAt, keyAt + this.width), at)
    this.values.set(qkv.subarray(valueAt, valueAt + this.width), at)
  }

  #makeRoom(position: number): void {
    const needed = (position % this.#capacity) + 1
    const room = this.keys.length / this.width
    if (needed <= room) return
    const more = Number.isFinite(this.window) ? 0 : room >> 4
    this.#resize(Math.min(Math.max(Math.ceil(needed / step) * step, room + more), this.#capacity))
  }

  /** Changes for how many tokens there is room; the first of them keep what they have. */
  #resize(room: number): void {
    this.#account.bytes -= bytesOf(this)
    this.keys = resized(this.keys, room * this.width)
    this.values = resized(this.values, room * this.width)
    this.#account.bytes += bytesOf(this)
  }

  growth(length: number): number {
    const room = Math.min(roomFor(length, this.window), this.#capacity)
    return Math.max(0, 2 * 4 * room * this.width - bytesOf(this))
  }

  commit(length: number): void {
    this.length = Math.max(this.length, length)
  }

  truncate(length: number): void {
    this.length = Math.min(this.length, length)
  }

  restart(position: number): void {
    this.dispose()
    this.first = position
    this.length = position
  }

  snapshot(first: number, length: number): ReferenceSnapshot {
    const { width } = this
    const copy = new ReferenceSnapshot(first, length, width, this.#account)
    for (let p = first; p < length; p++) {
      const [from, to] = [this.offset(p), (p - first) * width]
      copy.keys.set(this.keys.subarray(from, from + width), to)
      copy.values.set(this.values.subarray(from, from + width), to)
    }
    return copy
  }

  restore({ first, length, keys, values }: ReferenceSnapshot): void {
    const { width } = this
    for (let p = first; p < length; p++) {
      this.#makeRoom(p)
      const [from, to] = [(p - first) * width, this.offset(p)]
      this.keys.set(keys.subarray(from, from + width), to)
      this.values.set(values.subarray(from, from + width), to)
    }
    this.first = first
    this.length = length
  }

  fork(length: number): ReferenceCache {
    const fork = new ReferenceCache(this.#shape, this.#maxChunk, this.#account)
    if (Number.isFinite(this.window)) return fork
    fork.#resize(length)
    fork.keys.set(this.keys.subarray(0, fork.keys.length))
    fork.values.set(this.values.subarray(0, fork.values.length))
    fork.length = length
    return fork
  }

  /** A key, then its value. */
  get tokenBytes(): number {
    return 2 * 4 * this.width
  }

  async save(first: number, length: number): Promise<Uint8Array> {
    const { width } = this
    const numbers = new Float32Array(2 * (length - first) * width)
    for (let p = first; p < length; p++) {
      const [from, to] = [this.offset(p), 2 * (p - first) * width]
      numbers.set(this.keys.subarray(from, from + width), to)
      numbers.set(this.values.subarray(from, from + width), to + width)
    }
    return new Uint8Array(numbers.buffer)
  }

  load(bytes: Uint8Array): void {
    const { width } = this
    const numbers = new Float32Array(bytes.slice().buffer) // aligned
    const numTokens = numbers.length / width / 2
    for (let n = 0; n < numTokens; n++) this.write(this.length + n, numbers, 2 * n * width, (2 * n + 1) * width)
    this.commit(this.length + numTokens)
  }

  dispose(): void {
    this.#resize(0)
  }
}

class ReferenceSnapshot implements LayerSnapshot {
  readonly first: number
  readonly length: number
  keys: Float32Array // [length - first, numKeyValueHeads * headDim]
  values: Float32Array
  readonly #account: Account

  constructor(first: number, length: number, width: number, account: Account) {
    this.first = first
    this.length = length
    this.keys = new Float32Array((length - first) * width)
    this.values = new Float32Array((length - first) * width)
    this.#account = account
    account.bytes += bytesOf(this)
  }

  dispose(): void {
    this.#account.bytes -= bytesOf(this)
    this.keys = this.values = new Float32Array(0)
  }
}

const bytesOf = ({ keys, values }: { keys: Float32Array; values: Float32Array }): number =>
  keys.byteLength + values.byteLength

/** The first `length` numbers, zeros behind what there is. */
function resized(array: Float32Array, length: number): Float32Array<ArrayBuffer> {
  const out = new Float32Array(length)
  out.set(array.subarray(0, length))
  return out
}
