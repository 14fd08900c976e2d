import type { AttentionShape, LayerCache, LayerSnapshot } from '../ops.ts'

const firstCapacity = 64 // tokens; a full cache grows by as many, later by a sixteenth

/** Keys and values in float32, [capacity, numKeyValueHeads · headDim] each. */
export class ReferenceCache implements LayerCache {
  readonly window: number
  /** Numbers per token in `keys`, and in `values`. */
  readonly width: number
  keys: Float32Array
  values: Float32Array
  first = 0
  length = 0
  #capacity: number

  constructor(shape: AttentionShape, maxChunk: number) {
    this.window = shape.window
    this.width = shape.numKeyValueHeads * shape.headDim
    // A chunk of n tokens needs the window − 1 before its first token, and itself.
    this.#capacity = Number.isFinite(shape.window) ? shape.window - 1 + maxChunk : firstCapacity
    this.keys = new Float32Array(this.#capacity * this.width)
    this.values = new Float32Array(this.#capacity * this.width)
  }

  /** Where the key (or value) of a position begins. */
  offset(position: number): number {
    return (Number.isFinite(this.window) ? position % this.#capacity : position) * this.width
  }

  /** Stores one position's key and value, unless the position is taken already. */
  write(position: number, qkv: Float32Array, keyAt: number, valueAt: number): void {
    if (position < this.length) return
    if (Number.isFinite(this.window)) this.first = Math.max(this.first, position + 1 - this.#capacity)
    else if (position >= this.#capacity) this.#grow(position + 1)
    const at = this.offset(position)
    this.keys.set(qkv.subarray(keyAt, keyAt + this.width), at)
    this.values.set(qkv.subarray(valueAt, valueAt + this.width), at)
  }

  #grow(needed: number): void {
    this.#capacity = Math.max(needed, this.#capacity + Math.max(firstCapacity, this.#capacity >> 4))
    this.keys = enlarged(this.keys, this.#capacity * this.width)
    this.values = enlarged(this.values, this.#capacity * this.width)
  }

  commit(length: number): void {
    this.length = Math.max(this.length, length)
  }

  truncate(length: number): void {
    this.length = Math.min(this.length, length)
  }

  restart(position: number): void {
    this.first = position
    this.length = position
  }

  snapshot(first: number, length: number): ReferenceSnapshot {
    const { width } = this
    const copy = new ReferenceSnapshot(first, length, width)
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
      const [from, to] = [(p - first) * width, this.offset(p)]
      this.keys.set(keys.subarray(from, from + width), to)
      this.values.set(values.subarray(from, from + width), to)
    }
    this.first = first
    this.length = length
  }

  dispose(): void {
    this.keys = this.values = new Float32Array(0)
    this.#capacity = 0
  }
}

class ReferenceSnapshot implements LayerSnapshot {
  readonly first: number
  readonly length: number
  keys: Float32Array // [length - first, numKeyValueHeads * headDim]
  values: Float32Array

  constructor(first: number, length: number, width: number) {
    this.first = first
    this.length = length
    this.keys = new Float32Array((length - first) * width)
    this.values = new Float32Array((length - first) * width)
  }

  dispose(): void {
    this.keys = this.values = new Float32Array(0)
  }
}

function enlarged(array: Float32Array, length: number): Float32Array {
  const out = new Float32Array(length)
  out.set(array)
  return out
}
