import type { LayerCache } from '../kernels/ops.ts'

/**
 * Keys and values of one sequence in all layers.
 *
 * Full layers hold every position, so they can be cut anywhere. Windowed layers hold little more than their window and
 * cannot: what they need at an earlier position must be run again, window upon window, because each windowed layer's
 * input depends on a window of the windowed layer below it.
 */
export class KvCache {
  readonly layers: readonly LayerCache[]
  #length = 0
  /** Where an unfinished rebuild of the windows will have caught up. */
  #rebuildingTo: number | undefined

  constructor(layers: readonly LayerCache[]) {
    this.layers = layers
  }

  /** Tokens that the full layers hold. */
  get length(): number {
    return this.#length
  }

  /**
   * Forgets everything from `position` on. Returns where running must resume so that the windows are exact at `position`
   * again: `position` itself where they still hold what it sees, otherwise up to numWindowedLayers · (window − 1) tokens
   * before it (the full layers keep what they have of those).
   */
  rewind(position: number): number {
    if (position > this.#length) throw new RangeError(`cannot rewind to ${position}: only ${this.#length} tokens are held`)
    const windowed = this.layers.filter(isWindowed)
    for (const layer of this.layers) if (!isWindowed(layer)) layer.truncate(position)
    this.#length = position
    if (windowed.length === 0) return position
    if (this.#rebuildingTo === position) return windowed[0].length
    if (this.#rebuildingTo === undefined && windowed.every(layer => holdsWindow(layer, position))) {
      for (const layer of windowed) layer.truncate(position)
      return position
    }
    const reach = windowed.reduce((sum, layer) => sum + layer.window - 1, 0)
    const start = Math.max(0, position - reach)
    for (const layer of windowed) layer.restart(start)
    this.#rebuildingTo = position
    return start
  }

  /** Accepts what a forward pass has written up to `length`. */
  commit(length: number): void {
    for (const layer of this.layers) layer.commit(length)
    this.#length = Math.max(this.#length, length)
    if (this.#rebuildingTo === undefined || length < this.#rebuildingTo) return
    // What the rebuild ran before the last window was computed without its own past and must not serve again.
    for (const layer of this.layers) {
      if (isWindowed(layer) && layer.first > 0) layer.expire(this.#rebuildingTo - layer.window + 1)
    }
    this.#rebuildingTo = undefined
  }

  dispose(): void {
    for (const layer of this.layers) layer.dispose()
  }
}

const isWindowed = (layer: LayerCache): boolean => Number.isFinite(layer.window)

/** Whether the keys that the token at `position` sees are held. */
function holdsWindow(layer: LayerCache, position: number): boolean {
  return layer.length >= position && layer.first <= Math.max(0, position - layer.window + 1)
}
