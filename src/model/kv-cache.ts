import type { LayerCache } from '../kernels/ops.ts'

/**
 * Keys and values of one sequence in all layers.
 *
 * Full layers hold every position, so they can be cut anywhere. Windowed layers are rings that hold little more than
 * their window: where a ring has dropped what an earlier position sees, tokens before it must run again. A windowed layer
 * sees window − 1 tokens back, and what it sees comes from windowed layers below that see as far again: windows that
 * begin empty are exact only Σ(window − 1) tokens later, unless they begin at the first token.
 */
export class KvCache {
  readonly layers: readonly LayerCache[]
  /** Tokens that the windowed layers can take at once. */
  readonly maxChunk: number
  readonly #full: readonly LayerCache[]
  readonly #windowed: readonly LayerCache[]
  /** Tokens that windows which began empty must run before they are exact. */
  readonly #reach: number
  /** Where the windows last began empty. */
  #start = 0
  #length = 0

  constructor(layers: readonly LayerCache[], maxChunk: number) {
    const isWindowed = (layer: LayerCache) => Number.isFinite(layer.window)
    this.layers = layers
    this.maxChunk = maxChunk
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
   * exact: `position` itself where the windows still hold what it sees; where an interrupted run of this kind stopped; or
   * min(position, Σ(window − 1)) tokens before it. The full layers keep what they have of the tokens that run again.
   */
  rewind(position: number): number {
    if (!(position <= this.#length)) {
      throw new RangeError(`cannot rewind to ${position}: ${this.#length} tokens are held`)
    }
    this.#length = position
    for (const layer of this.#full) layer.truncate(position)
    const start = Math.max(0, position - this.#reach)
    // The windows lag behind the full layers while they are run again.
    const resume = this.#windowed.reduce((least, layer) => Math.min(least, layer.length), position)
    if (this.#start <= start && this.#windowed.every(layer => this.#sees(layer, resume))) {
      for (const layer of this.#windowed) layer.truncate(resume)
      return resume
    }
    for (const layer of this.#windowed) layer.restart(start)
    this.#start = start
    return start
  }

  /** Whether the ring still holds what the token at `position` sees of the tokens since the windows began. */
  #sees(layer: LayerCache, position: number): boolean {
    return layer.first <= Math.max(this.#start, position - layer.window + 1)
  }

  /** Accepts what a forward pass has written up to `length`. */
  commit(length: number): void {
    for (const layer of this.layers) layer.commit(length)
    this.#length = Math.max(this.#length, length)
  }

  dispose(): void {
    for (const layer of this.layers) layer.dispose()
  }
}
