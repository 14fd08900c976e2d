import { setImmediate } from 'node:timers/promises'
import { seededRandom } from '../base/random.ts'
import type { CpuDevice } from '../device/cpu.node.ts'
import type { CpuCache } from '../device/cpu-cache.ts'
import type { ModelConfig } from '../model/config.ts'
import type { KvCache } from '../model/kv-cache.ts'
import { type Chunk, type Layer, Transformer, type Weights } from '../model/transformer.ts'

type Tensor = Weights['norm']
type Ops = ReturnType<CpuDevice['begin']>

/** What the kernels of this machine took for random weights of a model's widths: seconds, medians of several runs. */
export interface Speeds {
  /** Bytes a second of plain reads, from memory in pages of 2 MiB and of 4 KiB. */
  readonly reads: { readonly huge: number; readonly small: number }
  /** A layer for one token, the mean of windowed and full ones. */
  readonly decodeLayer: number
  /** A row of the unembedding, for one token. */
  readonly unembeddingRow: number
  /** What a token in the context adds to each layer that sees all of it, when one token is generated. */
  readonly contextToken: number
  /** By rising number of tokens: a layer, and the last one, of which a single token's output is wanted. */
  readonly prompts: readonly { readonly tokens: number; readonly layer: number; readonly lastLayer: number }[]
  /** How many experts these layers had. */
  readonly numExperts: number
  /** A layer's experts alone, for tokens that choose them by chance, by rising number of tokens. */
  readonly experts: readonly { readonly tokens: number; readonly seconds: number }[]
}

/** Lengths of the prompts that are run. */
const promptTokens = [64, 512]
/** Experts of the layers that are run, at most: four times as many take four times as long for four times the tokens. */
const mostExperts = 32
/** The prompts, and what is as much for 32 experts as these are for the 128 of gpt-oss-120b. */
const expertTokens = [16, 64, 128, 512]
const decodeLayers = 12
/** Layers that have matrices of attention of their own; the others share them, so far apart that no cache holds them. */
const attentionSets = 3
const longContext = 32_768 // tokens; the cache of a layer is 64 MiB
/** Rows of the unembedding that are run: more than fit a cache, as the whole ones do. */
const unembeddingRows = 49_152
const tableRows = 1024
const readBytes = 2 ** 28

/** Measures for some ten seconds, with some 700 MB of memory for layers of the published widths, kept by the device. */
export async function measureSpeeds(device: CpuDevice, config: ModelConfig, signal?: AbortSignal): Promise<Speeds> {
  const reads = {
    huge: await device.readSpeed('huge', readBytes),
    small: await device.readSpeed('small', readBytes),
  }
  const probe = await Probe.load(device, config, signal)
  const turns = new Turns()
  const experts = expertTokens.map(tokens => ({ tokens, seconds: turns.add(probe.experts(tokens)) }))
  const prompts = promptTokens.map(tokens => {
    return { tokens, one: turns.add(probe.prompt(tokens, 1)), two: turns.add(probe.prompt(tokens, 2)) }
  })
  const decode = turns.add(probe.decode(decodeLayers))
  const unembedding = turns.add(probe.unembedding())
  const [few, many] = [turns.add(await probe.decodeBehind(64)), turns.add(await probe.decodeBehind(longContext))]
  await turns.run(signal)
  return {
    reads,
    decodeLayer: positive(decode() - unembedding()) / decodeLayers,
    unembeddingRow: unembedding() / unembeddingRows,
    contextToken: positive(many() - few()) / longContext,
    // Of the second of two layers, a full one: for so few tokens a windowed one is hardly faster.
    prompts: prompts.map(({ tokens, one, two }) => {
      return { tokens, layer: positive(two() - one()), lastLayer: positive(one() - unembedding()) }
    }),
    numExperts: probe.numExperts,
    experts: experts.map(({ tokens, seconds }) => ({ tokens, seconds: seconds() })),
  }
}

/** A difference of times stays one, whatever a busy machine measured. */
const positive = (seconds: number): number => Math.max(0, seconds)

type Run = () => Promise<unknown>

/** Times runs in turn, so that what else this machine does meanwhile meets each of them. */
class Turns {
  static readonly #rounds = 4
  /** Of a run in each round, but once at least. */
  static readonly #leastSeconds = 0.1
  readonly #runs: { run: Run; times: number[] }[] = []

  /** Gives what tells the median of its seconds, once all have run; one that has to take memory first does not move it. */
  add(run: Run): () => number {
    const times: number[] = []
    this.#runs.push({ run, times })
    return () => median(times)
  }

  async run(signal?: AbortSignal): Promise<void> {
    for (let round = 0; round < Turns.#rounds; round++) {
      for (const { run, times } of this.#runs) {
        for (let total = 0; total < Turns.#leastSeconds; total += times.at(-1)!) times.push(await time(run, signal))
      }
    }
  }
}

async function time(run: Run, signal?: AbortSignal): Promise<number> {
  await setImmediate() // Ctrl-C
  signal?.throwIfAborted()
  const begun = performance.now()
  await run()
  return (performance.now() - begun) / 1000
}

function median(times: readonly number[]): number {
  const sorted = times.toSorted((a, b) => a - b)
  const middle = (sorted.length - 1) / 2
  return (sorted[Math.floor(middle)] + sorted[Math.ceil(middle)]) / 2
}

/** Runs of the forward pass itself, through a few layers with random weights. */
class Probe {
  readonly numExperts: number
  readonly #device: CpuDevice
  readonly #config: ModelConfig
  readonly #weights: Weights
  readonly #random = seededRandom(1)

  private constructor(device: CpuDevice, config: ModelConfig, weights: Weights) {
    this.numExperts = expertsOf(config)
    this.#device = device
    this.#config = config
    this.#weights = weights
  }

  static async load(device: CpuDevice, config: ModelConfig, signal?: AbortSignal): Promise<Probe> {
    const { hiddenSize: hidden, intermediateSize: inner, headDim, numAttentionHeads, numKeyValueHeads } = config
    const numExperts = expertsOf(config)
    const attended = numAttentionHeads * headDim
    const qkvRows = attended + 2 * numKeyValueHeads * headDim
    const random = new RandomTensors()
    const load: CpuDevice['load'] = (...args) => {
      signal?.throwIfAborted()
      return device.load(...args)
    }
    const matrix = (rows: number, cols: number) => load([random.bfloat16([rows, cols])], { mayRound: true })
    const zeros = (...shape: number[]) => load([constant(shape, 0)])
    const mxfp4 = (rows: number, cols: number) => {
      const shape = [numExperts, rows, cols / 32]
      return device.loadMxfp4(random.mxfp4Blocks([...shape, 16]), mxfp4Scales(shape))
    }
    const norm = await load([constant([hidden], 1)])
    const shared = {
      ...{ attentionNorm: norm, mlpNorm: norm },
      qkvBias: await zeros(qkvRows),
      sinks: await zeros(numAttentionHeads),
      outBias: await zeros(hidden),
      routerBias: await zeros(numExperts),
      experts: {
        gateUp: await mxfp4(2 * inner, hidden),
        gateUpBias: await zeros(numExperts, 2 * inner),
        down: await mxfp4(hidden, inner),
        downBias: await zeros(numExperts, hidden),
      },
    }
    const layers: Layer[] = []
    for (let n = 0; n < decodeLayers; n++) {
      const router = await load([random.bfloat16([numExperts, hidden])])
      const qkv = layers[n - attentionSets]?.qkv ?? (await matrix(qkvRows, hidden))
      const out = layers[n - attentionSets]?.out ?? (await matrix(hidden, attended))
      layers.push({ ...shared, qkv, out, router })
    }
    const embedding = await load([random.bfloat16([tableRows, hidden], large)])
    const unembedding = await matrix(unembeddingRows, hidden)
    return new Probe(device, config, { embedding, layers, norm, unembedding })
  }

  /** A prompt, up to the logits of its last token. */
  prompt(tokens: number, numLayers: number): Run {
    const model = this.#model(numLayers)
    const cache = model.newCache(tokens)
    return () => {
      cache.rewind(0)
      return model.forward([this.#chunk(cache, tokens, 'last')])
    }
  }

  /** One token behind a few others, and its logits. */
  decode(numLayers: number): Run {
    const model = this.#model(numLayers)
    const cache = model.newCache(1)
    return () => model.forward([this.#chunk(cache, 1, 'last')])
  }

  /** A windowed layer, and the attention of a full one, for one token behind so many others. */
  async decodeBehind(context: number): Promise<Run> {
    const model = this.#model(2)
    const cache = model.newCache(64)
    await model.forward([this.#chunk(cache, 64, 'none')])
    for (const layer of cache.layers) (layer as CpuCache).repeat(context)
    cache.commit(context)
    return () => model.forward([this.#chunk(cache, 1, 'none')])
  }

  /** The experts of a layer, and its router. */
  experts(tokens: number): Run {
    const { embedding, norm, layers } = this.#weights
    const { expertsPerToken, swigluLimit, rmsNormEpsilon } = this.#config
    const [{ router, routerBias, experts }] = layers
    return () =>
      this.#record(ops => {
        const x = ops.rmsNorm(ops.embedding(this.#tokens(tokens), embedding), norm, rmsNormEpsilon)
        const routing = ops.topK(ops.linear(x, router, routerBias), expertsPerToken)
        return ops.rows(ops.experts(x, routing, experts, swigluLimit), Int32Array.of(0))
      })
  }

  /** Logits of one token. */
  unembedding(): Run {
    const { embedding, unembedding } = this.#weights
    return () => this.#record(ops => ops.linear(ops.embedding(this.#tokens(1), embedding), unembedding))
  }

  async #record(ofPass: (ops: Ops) => Tensor): Promise<void> {
    const ops = this.#device.begin()
    try {
      await ops.read(ofPass(ops))
    } finally {
      ops.end()
    }
  }

  #model(numLayers: number): Transformer {
    const layers = this.#weights.layers.slice(0, numLayers)
    return new Transformer(this.#device, this.#config, { ...this.#weights, layers })
  }

  #chunk(cache: KvCache, count: number, logits: Chunk['logits']): Chunk {
    return { cache, tokens: [...this.#tokens(count)], start: cache.length, logits }
  }

  #tokens(count: number): Int32Array {
    return Int32Array.from({ length: count }, () => this.#random() * tableRows)
  }
}

const expertsOf = ({ numExperts }: ModelConfig) => Math.min(numExperts, mostExperts)

/* ---- random weights: their values make no difference to speed, as long as none is huge or tiny */

function stored(dataType: string, shape: readonly number[], bytes: Uint8Array) {
  const name = `random numbers [${shape.join(', ')}]`
  return { name, dataType, shape, byteLength: bytes.length, read: async () => bytes }
}

function constant(shape: readonly number[], value: number) {
  return stored('F32', shape, new Uint8Array(new Float32Array(product(shape)).fill(value).buffer))
}

/** 2⁻⁸ throughout: an expert's output is about as large as its input. */
const mxfp4Scales = (shape: readonly number[]) => stored('U8', shape, new Uint8Array(product(shape)).fill(119))

/** The high byte of numbers from 0.008 to 0.03. */
const small = 0x3c
/** Of those from 2 to 8: beside them what layers add is little, so tokens stay apart and choose experts of their own. */
const large = 0x40

/** Other numbers in each tensor, or tokens would choose the experts that resemble them. */
class RandomTensors {
  #seed = 0

  /** Of both signs. */
  bfloat16(shape: readonly number[], high = small) {
    const bytes = this.#bytes(2 * product(shape))
    for (let i = 1; i < bytes.length; i += 2) bytes[i] = (bytes[i] & 0x80) | high
    return stored('BF16', shape, bytes)
  }

  mxfp4Blocks(shape: readonly number[]) {
    return stored('U8', shape, this.#bytes(product(shape)))
  }

  /** The same 60 KiB and some again and again, for it has to be fast. */
  #bytes(length: number): Uint8Array {
    const random = seededRandom(++this.#seed)
    const piece = Uint8Array.from({ length: Math.min(length, 61_469) }, () => random() * 256)
    const bytes = new Uint8Array(length)
    for (let at = 0; at < length; at += piece.length) bytes.set(piece.subarray(0, length - at), at)
    return bytes
  }
}

const product = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1)
