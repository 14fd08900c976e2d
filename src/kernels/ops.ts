import type { StoredTensor, Tensor } from './tensor.ts'

/** The k experts of each of T tokens, by falling logit, with weights that sum to 1. */
export interface Routing {
  /** [T, expertsPerToken] */
  readonly experts: Tensor
  /** [T, expertsPerToken] */
  readonly weights: Tensor
}

/** The expert matrices of one layer. Rows of `gateUp` alternate: gate, linear, gate, linear, … */
export interface Experts {
  readonly gateUp: Tensor // [numExperts, 2 intermediateSize, hiddenSize] mxfp4
  readonly gateUpBias: Tensor // [numExperts, 2 intermediateSize]
  readonly down: Tensor // [numExperts, hiddenSize, intermediateSize] mxfp4
  readonly downBias: Tensor // [numExperts, hiddenSize]
}

/** Cosines and sines of every rotary angle are computed from these, in float64. */
export interface Rotary {
  /** [headDim / 2] radians per position */
  readonly frequencies: Float64Array
  /** Factor of both cosine and sine (YaRN's attention scaling). */
  readonly concentration: number
}

/** How attention splits a row of `qkv`, and what it sees. */
export interface AttentionShape {
  readonly numAttentionHeads: number
  readonly numKeyValueHeads: number
  readonly headDim: number
  /** How many of the last tokens are seen, the current one included; Infinity for all. */
  readonly window: number
}

/** The sizes of a model that decide how much memory a pass takes. */
export interface ModelSizes {
  readonly hiddenSize: number
  readonly intermediateSize: number
  readonly expertsPerToken: number
  readonly vocabSize: number
  readonly numAttentionHeads: number
  readonly numKeyValueHeads: number
  readonly headDim: number
}

/**
 * Keys and values of one sequence in one layer.
 *
 * A windowed cache is a ring: writing position p overwrites position p − capacity. `first` and `length` bound what is
 * held. Nothing but `Ops.attention` writes into it; `length` moves by `commit` alone, so a forward that stops halfway
 * leaves the cache as it was.
 */
export interface LayerCache {
  readonly window: number
  /** The earliest position whose key and value are held. */
  readonly first: number
  /** Positions below this are taken; `attention` keeps what is there and writes only from here on. */
  readonly length: number
  /** Bytes that it takes more, at most, to hold the positions up to `length`. */
  growth(length: number): number
  /** Accepts what was written up to `length`. */
  commit(length: number): void
  /** Forgets everything from `length` on. The ring's earlier entries stay. */
  truncate(length: number): void
  /**
   * Forgets everything and gives its memory back until it is written again; the next write is at `position`, and nothing
   * before it is seen. An abandoned pass may still be writing into what was held before.
   */
  restart(position: number): void
  /** Keeps the positions from `first` up to `length`, all of which are held. Windowed caches alone are asked for it. */
  snapshot(first: number, length: number): LayerSnapshot
  /** Holds what a snapshot of this cache, or of one that it was forked from, does, and nothing else; see `restart`. */
  restore(snapshot: LayerSnapshot): void
  /**
   * Another cache of this kind. A full one holds what this one does below `length`, and may share its memory with it until
   * either writes there; a windowed one is empty. A pass may be running over this one.
   */
  fork(length: number): LayerCache
  /** Bytes of a position, as `save` gives them. */
  readonly tokenBytes: number
  /**
   * The keys and values of the positions from `first` up to `length`, all of which are held, and nothing else: one position
   * after the other, in numbers as the device keeps them. A pass may be running over this one.
   */
  save(first: number, length: number): Promise<Uint8Array>
  /** Holds, behind `length`, the positions that these bytes are: of `save`, on a device with the same `cacheFormat`. */
  load(bytes: Uint8Array): void
  dispose(): void
}

/** Keys and values of some positions of a windowed cache. */
export interface LayerSnapshot {
  readonly first: number
  readonly length: number
  dispose(): void
}

/** One sequence's share of a batch: rows `row` to `row + count` of the activations are its positions from `start` on. */
export interface Piece {
  readonly row: number
  readonly count: number
  readonly start: number
}

/**
 * What the model may ask of a device during one forward pass. Calls record work, which may run at once or not before
 * `read` or `done` is awaited: one of them, once. Activations belong to the pass: `end` frees them all, whether it was
 * finished or abandoned.
 */
export interface Ops {
  /** Rows of `table` [vocabSize, hiddenSize] → [T, hiddenSize] float32. */
  embedding(tokens: Int32Array, table: Tensor): Tensor
  /** x · weight / √(mean(x²) + epsilon) over the last dimension, in float32 or better. */
  rmsNorm(x: Tensor, weight: Tensor, epsilon: number): Tensor
  /** x [T, in] · weightᵀ [out, in] + bias [out] → [T, out]. */
  linear(x: Tensor, weight: Tensor, bias?: Tensor): Tensor
  /** Turns the query and key heads of qkv [T, q + k + v] by their positions [T]; half-split pairs; values stay. */
  rope(qkv: Tensor, positions: Int32Array, rotary: Rotary, shape: AttentionShape): Tensor
  /**
   * Writes each piece's keys and values into its cache, then attends causally → [T, numAttentionHeads · headDim].
   * One logit of `sinks` per head joins the softmax and gives no value.
   */
  attention(
    qkv: Tensor,
    sinks: Tensor,
    pieces: readonly Piece[],
    caches: readonly LayerCache[],
    shape: AttentionShape,
  ): Tensor
  /** The k largest of each row of logits [T, numExperts] (ties: the lower index), softmax over those k. */
  topK(logits: Tensor, k: number): Routing
  /** Σ over chosen experts of weight · (down(swiglu(gateUp(x))) + bias) → [T, hiddenSize]. */
  experts(x: Tensor, routing: Routing, experts: Experts, swigluLimit: number): Tensor
  /** x + y, same shapes. */
  add(x: Tensor, y: Tensor): Tensor
  /** The rows of x with these indices, in this order. */
  rows(x: Tensor, indices: Int32Array): Tensor
  /** The numbers of a float32 tensor, once the work before it is done. Survives `end`. */
  read(x: Tensor): Promise<Float32Array>
  /** Resolves once everything recorded has been run, for its traces in the caches: where no numbers are wanted. */
  done(): Promise<void>
  /**
   * Frees every activation of this pass and abandons what of it still runs, as soon as the device can: what was promised
   * may reject then. An abandoned pass may go on writing into its caches for a moment, but only where it was about to
   * write, and before what any later pass does.
   */
  end(): void
}

export interface LoadOptions {
  /** The matrix may be kept in fewer bits, if the device does that. */
  readonly mayRound?: boolean
  /** A few rows are read for each token, wherever they lie. */
  readonly byRow?: boolean
  /** What is used where its file is mapped shall lie in memory when loading is done, not only when it is first used. */
  readonly populate?: boolean
}

/** Memory of the device's own, and what is used where the file is mapped: the system may drop and read that again. */
export interface WeightBytes {
  readonly own: number
  readonly mapped: number
}

export interface PassOptions {
  /**
   * The pass interrupts those that are not urgent, where the device can; they go on when it has ended. Results are the
   * same: the device sees to it that a pass over a cache that an earlier one is still writing waits for that one.
   */
  readonly urgent?: boolean
}

/** A runtime that holds weights and caches and runs forward passes. */
export interface Device {
  readonly name: string
  /** Tokens that a forward pass should take at once. */
  readonly maxChunk: number
  /**
   * Told before all else which matrices will come with `mayRound`, in the order of loading: a device may have kept what it
   * made of them, and may keep it for the next time. Resolves to what it has to tell of that.
   */
  recall?(matrices: readonly (readonly StoredTensor[])[]): Promise<string | undefined>
  /** The memory that a tensor will take, known before it is read. */
  weightBytes(tensor: Omit<StoredTensor, 'read'>, options?: LoadOptions): WeightBytes
  /** Bytes of a cache that has grown to `tokens` positions. */
  cacheBytes(shape: AttentionShape, tokens: number): number
  /** Bytes of a snapshot of at most `tokens` positions of a windowed cache. */
  snapshotBytes(shape: AttentionShape, tokens: number): number
  /** Bytes that all caches and snapshots hold now, what some share counted once; never more than was planned for them. */
  readonly heldCacheBytes: number
  /** What its keys and values are, once saved: nothing that another device would have computed or kept otherwise. */
  readonly cacheFormat: string
  /** Bytes that a forward pass of `tokens` tokens computes in. */
  passBytes(sizes: ModelSizes, tokens: number): number
  /** Puts a matrix or vector on the device; several parts are joined along their rows. BF16 or F32. */
  load(parts: readonly StoredTensor[], options?: LoadOptions): Promise<Tensor>
  /** Puts expert matrices on the device: blocks U8 [experts, rows, groups, 16], scales U8 [experts, rows, groups]. */
  loadMxfp4(blocks: StoredTensor, scales: StoredTensor, options?: LoadOptions): Promise<Tensor>
  /** An empty cache. A windowed one can take `maxChunk` tokens at once. */
  newCache(shape: AttentionShape, maxChunk: number): LayerCache
  /** Starts a forward pass. Several may be open at once. */
  begin(options?: PassOptions): Ops
  close(): void
}
