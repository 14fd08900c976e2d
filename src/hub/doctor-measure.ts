import { setImmediate } from 'node:timers/promises'
import { seededRandom } from '../base/random.ts'
import type { CpuDevice } from '../device/cpu.node.ts'
import type { CpuCache } from '../device/cpu-cache.ts'
import type { ModelConfig } from '../model/config.ts'
import { yarn } from '../model/yarn.ts'

/** A layer that was run with `tokens` tokens, spread evenly over `visited` experts. */
export interface LayerTime {
  readonly tokens: number
  readonly visited: number
  /** Seconds of the whole layer, and of its experts alone. */
  readonly layer: number
  readonly experts: number
}

/** What the kernels of this machine took for random weights of a model's widths. */
export interface Speeds {
  /** Bytes a second of plain reads, from memory in pages of 2 MiB and of 4 KiB. */
  readonly reads: { readonly huge: number; readonly small: number }
  /** By rising number of tokens, one token first. */
  readonly layers: readonly LayerTime[]
  /** Seconds a row of the unembedding, for one token. */
  readonly unembeddingRow: number
  /** Seconds that a token in the context adds to each layer that sees all of it, when one token is generated. */
  readonly contextToken: number
  /** Seconds that attention of a layer that sees everything, and of a windowed one, takes for prompts of two lengths. */
  readonly attention: readonly { readonly tokens: number; readonly full: number; readonly windowed: number }[]
}

type Weight = Awaited<ReturnType<CpuDevice['load']>>
type Ops = ReturnType<CpuDevice['begin']>

interface Probed {
  readonly device: CpuDevice
  readonly config: ModelConfig
  readonly signal?: AbortSignal
}
type ExpertWeights = Record<'gateUp' | 'gateUpBias' | 'down' | 'downBias', Weight>

/** Experts of the layer that is run: each token chooses one half of them. */
const halves = 2
const longContext = 32_768 // tokens; the cache of a layer is 64 MiB
/** Rows of the unembedding that are run: more than fit a cache, as the whole ones do. */
const unembeddingRows = 24_576
const tableRows = 256
const readBytes = 2 ** 28

/** Measures for some seconds, with some 400 MB of memory. */
export async function measureSpeeds(device: CpuDevice, config: ModelConfig, signal?: AbortSignal): Promise<Speeds> {
  const reads = {
    huge: await device.readSpeed('huge', readBytes),
    small: await device.readSpeed('small', readBytes),
  }
  const probe = await LayerProbe.load({ device, config, signal })
  const layers: LayerTime[] = []
  for (const tokens of [1, 16, 128]) layers.push(await probe.layerTime(tokens))
  const attention = []
  for (const tokens of [128, 512]) {
    attention.push({
      tokens,
      full: await probe.attentionTime(tokens, Infinity),
      windowed: await probe.attentionTime(tokens, config.slidingWindow),
    })
  }
  return {
    reads,
    layers,
    attention,
    unembeddingRow: await probe.unembeddingTime(),
    contextToken: await probe.contextTime(),
  }
}

/** One layer with random weights, whose experts are chosen by hand. */
class LayerProbe {
  readonly #device: CpuDevice
  readonly #config: ModelConfig
  readonly #weights: Record<string, Weight>
  readonly #experts: ExpertWeights
  readonly #rotary: ReturnType<typeof yarn>
  readonly #signal: AbortSignal | undefined

  private constructor({ device, config, signal }: Probed, weights: Record<string, Weight>, experts: ExpertWeights) {
    this.#device = device
    this.#rotary = yarn(config)
    this.#signal = signal
    this.#config = config
    this.#weights = weights
    this.#experts = experts
  }

  static async load(probed: Probed): Promise<LayerProbe> {
    const { device, config } = probed
    const { hiddenSize: hidden, intermediateSize: inner, headDim, numAttentionHeads, numKeyValueHeads } = config
    const numExperts = halves * config.expertsPerToken
    const attended = numAttentionHeads * headDim
    const qkvRows = attended + 2 * numKeyValueHeads * headDim
    const matrix = (rows: number, cols: number) => device.load([bfloat16([rows, cols])], { mayRound: true })
    const numbers = (shape: number[], values: (i: number) => number) => device.load([float32(shape, values)])
    const mxfp4 = (rows: number, cols: number) => {
      const shape = [numExperts, rows, cols / 32]
      return device.loadMxfp4(mxfp4Blocks([...shape, 16]), mxfp4Scales(shape))
    }
    const ones = await numbers([hidden], () => 1)
    return new LayerProbe(
      probed,
      {
        table: await device.load([bfloat16([tableRows, hidden])]),
        // Row 0 chooses the first half of the experts, row 1 the second: the router's own numbers are small beside it.
        choice: await numbers([halves, numExperts], i => {
          const row = Math.floor(i / numExperts)
          return Math.floor((i % numExperts) / config.expertsPerToken) === row ? 1000 : 0
        }),
        norm: ones,
        qkv: await matrix(qkvRows, hidden),
        qkvBias: await numbers([qkvRows], () => 0),
        sinks: await numbers([numAttentionHeads], () => 0),
        out: await matrix(hidden, attended),
        outBias: await numbers([hidden], () => 0),
        router: await device.load([bfloat16([numExperts, hidden])]),
        unembedding: await matrix(unembeddingRows, hidden),
      },
      {
        gateUp: await mxfp4(2 * inner, hidden),
        gateUpBias: await numbers([numExperts, 2 * inner], () => 0),
        down: await mxfp4(hidden, inner),
        downBias: await numbers([numExperts, hidden], () => 0),
      },
    )
  }

  async layerTime(tokens: number): Promise<LayerTime> {
    const { expertsPerToken } = this.#config
    const numLayers = tokens === 1 ? 4 : 2
    const visited = Math.min(tokens, halves) * expertsPerToken
    const cache = this.#newCache(Infinity)
    if (tokens === 1) await this.#fill(cache, 128)
    const start = cache.length
    const run = (withRest: boolean) =>
      this.#time(ops => {
        let x = ops.embedding(ids(tokens), this.#weights.table)
        for (let n = 0; n < numLayers; n++) x = withRest ? this.#layer(ops, x, n, start, cache) : this.#feed(ops, x, n)
        return x
      })
    const [layer, experts] = [await run(true), await run(false)]
    cache.dispose()
    return { tokens, visited, layer: layer / numLayers, experts: Math.min(experts, layer) / numLayers }
  }

  /** A whole layer, as the model has it. */
  #layer(ops: Ops, input: Weight, n: number, start: number, cache: CpuCache): Weight {
    const { norm, qkv, qkvBias, out, outBias } = this.#weights
    const normed = ops.rmsNorm(input, norm, 1e-5)
    const attended = this.#attention(ops, ops.linear(normed, qkv, qkvBias), start, cache)
    const x = ops.add(input, ops.linear(attended, out, outBias))
    return ops.add(x, this.#feed(ops, ops.rmsNorm(x, norm, 1e-5), n))
  }

  #attention(ops: Ops, qkv: Weight, start: number, cache: CpuCache): Weight {
    const [count] = qkv.shape
    const shape = this.#shape(cache.window)
    const positions = Int32Array.from({ length: count }, (_, i) => start + i)
    const turned = ops.rope(qkv, positions, this.#rotary, shape)
    return ops.attention(turned, this.#weights.sinks, [{ row: 0, count, start }], [cache], shape)
  }

  /** Router and experts. Token t of layer n chooses one half of them, its neighbours the other. */
  #feed(ops: Ops, x: Weight, n: number): Weight {
    const { choice, router } = this.#weights
    const chosen = Int32Array.from({ length: x.shape[0] }, (_, t) => (t + n) % halves)
    const logits = ops.add(ops.embedding(chosen, choice), ops.linear(x, router))
    return ops.experts(x, ops.topK(logits, this.#config.expertsPerToken), this.#experts, 7)
  }

  async attentionTime(tokens: number, window: number): Promise<number> {
    const cache = this.#newCache(window)
    const { table, qkv } = this.#weights
    const numbers = (ops: Ops) => ops.linear(ops.embedding(ids(tokens), table), qkv)
    const both = await this.#time(ops => this.#attention(ops, numbers(ops), 0, cache))
    const without = await this.#time(numbers)
    cache.dispose()
    return Math.max(0, both - without)
  }

  /** Seconds a row. */
  async unembeddingTime(): Promise<number> {
    const { table, unembedding } = this.#weights
    const seconds = await this.#time(ops => ops.linear(ops.embedding(ids(1), table), unembedding))
    return seconds / unembeddingRows
  }

  async contextTime(): Promise<number> {
    const cache = this.#newCache(Infinity)
    await this.#fill(cache, 64)
    const run = () =>
      this.#time(ops => {
        const { table, qkv } = this.#weights
        return this.#attention(ops, ops.linear(ops.embedding(ids(1), table), qkv), cache.length, cache)
      })
    const short = await run()
    cache.repeat(longContext)
    const long = await run()
    cache.dispose()
    return Math.max(0, long - short) / longContext
  }

  #shape(window: number) {
    const { numAttentionHeads, numKeyValueHeads, headDim } = this.#config
    return { numAttentionHeads, numKeyValueHeads, headDim, window }
  }

  #newCache(window: number): CpuCache {
    return this.#device.newCache(this.#shape(window), 512) as CpuCache
  }

  async #fill(cache: CpuCache, tokens: number): Promise<void> {
    const { table, qkv } = this.#weights
    await this.#run(ops => this.#attention(ops, ops.linear(ops.embedding(ids(tokens), table), qkv), 0, cache))
    cache.commit(tokens)
  }

  /** The best of several runs: what others do on this machine only adds to the time. */
  async #time(record: (ops: Ops) => Weight): Promise<number> {
    await this.#run(record) // takes memory
    const times: number[] = []
    for (let total = 0; times.length < 3 || (total < 0.4 && times.length < 50); total += times.at(-1)!) {
      await setImmediate() // Ctrl-C
      this.#signal?.throwIfAborted()
      const begun = performance.now()
      await this.#run(record)
      times.push((performance.now() - begun) / 1000)
    }
    return Math.min(...times)
  }

  async #run(record: (ops: Ops) => Weight): Promise<void> {
    const ops = this.#device.begin()
    try {
      await ops.read(ops.rows(record(ops), Int32Array.of(0)))
    } finally {
      ops.end()
    }
  }
}

const ids = (count: number) => Int32Array.from({ length: count }, (_, i) => i % tableRows)

/* ---- random weights: their values make no difference to speed, as long as none is huge or tiny */

function stored(dataType: string, shape: readonly number[], bytes: Uint8Array) {
  const name = `random numbers [${shape.join(', ')}]`
  return { name, dataType, shape, byteLength: bytes.length, read: async () => bytes }
}

function float32(shape: readonly number[], value: (i: number) => number) {
  const values = Float32Array.from({ length: product(shape) }, (_, i) => value(i))
  return stored('F32', shape, new Uint8Array(values.buffer))
}

/** Numbers from 0.008 to 0.03 in size, of both signs. */
function bfloat16(shape: readonly number[]) {
  const bytes = randomBytes(2 * product(shape))
  for (let i = 1; i < bytes.length; i += 2) bytes[i] = (bytes[i] & 0x80) | 0x3c
  return stored('BF16', shape, bytes)
}

const mxfp4Blocks = (shape: readonly number[]) => stored('U8', shape, randomBytes(product(shape)))
/** 2⁻⁸ throughout: an expert's output is about as large as its input. */
const mxfp4Scales = (shape: readonly number[]) => stored('U8', shape, new Uint8Array(product(shape)).fill(119))

/** The same 60 KiB and some again and again, for it has to be fast. */
function randomBytes(length: number): Uint8Array {
  const random = seededRandom(1)
  const piece = Uint8Array.from({ length: Math.min(length, 61_469) }, () => random() * 256)
  const bytes = new Uint8Array(length)
  for (let at = 0; at < length; at += piece.length) bytes.set(piece.subarray(0, length - at), at)
  return bytes
}

const product = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1)
