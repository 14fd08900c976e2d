import type { AttentionShape, Device, Experts, PassOptions, Piece, Rotary } from '../kernels/ops.ts'
import type { Tensor } from '../kernels/tensor.ts'
import type { ModelConfig } from './config.ts'
import { KvCache, snapshotTokens } from './kv-cache.ts'
import { type ShouldStop, unlessStopped } from './stop.ts'
import { yarn } from './yarn.ts'

/** One of the 24 (20b) or 36 (120b) layers. */
export interface Layer {
  attentionNorm: Tensor // [hiddenSize]
  qkv: Tensor // [qSize + 2 kvSize, hiddenSize]
  qkvBias: Tensor // [qSize + 2 kvSize]
  sinks: Tensor // [numAttentionHeads]
  out: Tensor // [hiddenSize, qSize]
  outBias: Tensor // [hiddenSize]
  mlpNorm: Tensor // [hiddenSize]
  router: Tensor // [numExperts, hiddenSize]
  routerBias: Tensor // [numExperts]
  experts: Experts
}

export interface Weights {
  embedding: Tensor // [vocabSize, hiddenSize]
  layers: Layer[]
  norm: Tensor // [hiddenSize]
  unembedding: Tensor // [vocabSize, hiddenSize]
}

/** Some tokens of one sequence: a whole prompt, a part of it, or the one token just sampled. */
export interface Chunk {
  cache: KvCache
  tokens: readonly number[]
  /** Position of the first token: the cache's length, or earlier while its windows are rebuilt. */
  start: number
  /** Which tokens' logits are wanted. */
  logits: 'none' | 'last' | 'all'
}

/** gpt-oss: the forward pass. Source: OpenAI's reference implementation and the model card (arXiv 2508.10925). */
export class Transformer {
  readonly config: ModelConfig
  readonly #device: Device
  readonly #weights: Weights
  readonly #rotary: Rotary
  readonly #shapes: AttentionShape[] // per layer

  constructor(device: Device, config: ModelConfig, weights: Weights) {
    this.#device = device
    this.config = config
    this.#weights = weights
    this.#rotary = yarn(config)
    const { numAttentionHeads, numKeyValueHeads, headDim, slidingWindow } = config
    this.#shapes = weights.layers.map((_, n) => {
      return { numAttentionHeads, numKeyValueHeads, headDim, window: n % 2 === 0 ? slidingWindow : Infinity }
    })
  }

  /** Gives the weights back to the device; nothing can run afterwards. */
  close(): void {
    this.#device.close()
  }

  /** An empty cache for one sequence that is fed at most `maxChunk` tokens at a time. */
  newCache(maxChunk: number): KvCache {
    const windowed = this.#shapes.filter(({ window }) => Number.isFinite(window))
    const bytes = windowed.map(shape => this.#device.snapshotBytes(shape, snapshotTokens(shape.window)))
    return new KvCache(
      this.#shapes.map(shape => this.#device.newCache(shape, maxChunk)),
      maxChunk,
      bytes.reduce((sum, each) => sum + each, 0),
    )
  }

  /** Bytes that all caches hold now. */
  get heldCacheBytes(): number {
    return this.#device.heldCacheBytes
  }

  /**
   * Runs tokens of any number of sequences. Gives the logits asked for, row by row [rows, vocabSize], in the order of the
   * batch; or nothing where `shouldStop` ended the pass: the caches then stay as they were.
   */
  async forward(
    batch: readonly Chunk[],
    shouldStop?: ShouldStop,
    options?: PassOptions,
  ): Promise<Float32Array | undefined> {
    const { config } = this
    const { embedding, layers, norm, unembedding } = this.#weights
    const { tokens, positions, pieces, wanted } = layout(batch)
    const ops = this.#device.begin(options)
    try {
      let x = ops.embedding(tokens, embedding) // [T, hiddenSize]
      for (const [n, layer] of layers.entries()) {
        if (await shouldStop?.()) return undefined
        const shape = this.#shapes[n]
        const caches = batch.map(chunk => chunk.cache.layers[n])
        const normed = ops.rmsNorm(x, layer.attentionNorm, config.rmsNormEpsilon) // [T, hiddenSize]
        const qkv = ops.linear(normed, layer.qkv, layer.qkvBias) // [T, qSize + 2 kvSize]
        const turned = ops.rope(qkv, positions, this.#rotary, shape)
        let attended = ops.attention(turned, layer.sinks, pieces, caches, shape) // [T, qSize]
        if (n === layers.length - 1 && wanted.length < tokens.length) {
          // Keys and values are in the caches: from here on only rows whose logits are wanted matter.
          if (wanted.length === 0) break
          attended = ops.rows(attended, wanted)
          x = ops.rows(x, wanted)
        }
        x = ops.add(x, ops.linear(attended, layer.out, layer.outBias))
        const t = ops.rmsNorm(x, layer.mlpNorm, config.rmsNormEpsilon)
        const routing = ops.topK(ops.linear(t, layer.router, layer.routerBias), config.expertsPerToken)
        x = ops.add(x, ops.experts(t, routing, layer.experts, config.swigluLimit))
      }
      if (await shouldStop?.()) return undefined
      let result: Promise<Float32Array>
      if (wanted.length === 0) result = ops.done().then(() => new Float32Array(0))
      else {
        const last = ops.rmsNorm(x, norm, config.rmsNormEpsilon) // [rows, hiddenSize]
        result = ops.read(ops.linear(last, unembedding)) // [rows, vocabSize]
      }
      const logits = await (shouldStop ? unlessStopped(result, shouldStop) : result)
      if (logits) for (const { cache, start, tokens } of batch) cache.commit(start + tokens.length)
      return logits
    } finally {
      ops.end()
    }
  }
}

/** The batch as flat arrays: every token with its position, each sequence's rows, and the rows whose logits are wanted. */
function layout(batch: readonly Chunk[]) {
  const tokens = Int32Array.from(batch.flatMap(chunk => chunk.tokens))
  const positions = Int32Array.from(batch.flatMap(chunk => chunk.tokens.map((_, i) => chunk.start + i)))
  const pieces: Piece[] = []
  const wanted: number[] = []
  let row = 0
  for (const { cache, tokens, start, logits } of batch) {
    const count = tokens.length
    if (count > cache.maxChunk) {
      // The ring would overwrite what the chunk's first tokens still see, without any sign.
      throw new RangeError(
        `a chunk of ${count} tokens is more than the ${cache.maxChunk} that its cache can take at once`,
      )
    }
    pieces.push({ row, count, start })
    if (logits === 'all') for (let i = 0; i < count; i++) wanted.push(row + i)
    else if (logits === 'last') wanted.push(row + count - 1)
    row += count
  }
  return { tokens, positions, pieces, wanted: Int32Array.from(wanted) }
}
