import { decodeBfloat16 } from '../base/bfloat16.ts'
import { CheckpointError, DeviceError } from '../base/errors.ts'
import type {
  AttentionShape,
  Device,
  Experts,
  LayerCache,
  LoadOptions,
  ModelSizes,
  Ops,
  PassOptions,
  Piece,
  Rotary,
  Routing,
  WeightBytes,
} from '../kernels/ops.ts'
import type { DataType, StoredTensor, Tensor } from '../kernels/tensor.ts'
import { CpuCache, PageStore, pageTokens } from './cpu-cache.ts'
import { opcodes } from './cpu-opcodes.ts'
import { Activation, plan, type Step } from './cpu-program.ts'
import { type KeepOptions, type KeptMatrices, q8Bytes, recallMatrices } from './kept-matrices.node.ts'
import type { Native, NativeBytes, NativeDevice, NativePass } from './native.node.ts'

export interface CpuOptions {
  /** An instruction set by name (`avx2`, …) instead of the best that this CPU has. */
  level?: string
  /** Native threads; as many as this process may use by default. */
  threads?: number
  /**
   * `fast`: attention and unembedding matrices in 8 bits, activations in 8 bits where they meet matrices.
   * `exact`: the checkpoint's own numbers and float32 activations.
   */
  precision?: 'fast' | 'exact'
  /** How keys and values are kept. */
  cache?: 'bf16' | 'q8'
  /** Where large matrices are kept that were rounded to 8 bits; they are made anew each time by default. */
  keep?: KeepOptions
}

const cacheTypes = { bf16: 0, q8: 1 } as const

const mib = 2 ** 20
/** What native/memory.c takes for so many bytes: blocks of 2 MiB and more lie in pages of 2 MiB. */
const inPages = (bytes: number): number => (bytes < 2 * mib ? bytes : Math.ceil(bytes / (2 * mib)) * 2 * mib)

/** What a cache page of so many bytes takes: they lie in slabs of 2 MiB, as many as find room in one. */
const inSlabs = (bytes: number): number =>
  bytes < 2 * mib ? (2 * mib) / Math.floor((2 * mib) / bytes) : inPages(bytes)

/** Native kernels on a pool of threads. Matrices are used where the checkpoint's files are mapped. */
export class CpuDevice implements Device {
  readonly name: string
  readonly maxChunk = 512 // tokens: as many as let every expert's weights be decoded for a whole tile of tokens
  readonly #options: Required<Pick<CpuOptions, 'precision' | 'cache'>>
  readonly #native: Native
  readonly #device: NativeDevice
  readonly #stores = new Map<string, PageStore>() // by heads and numbers of a page
  readonly #numThreads: number
  readonly #keep: KeepOptions | undefined
  #kept: KeptMatrices | undefined

  constructor(native: Native, { level, threads, precision = 'fast', cache = 'bf16', keep }: CpuOptions = {}) {
    const levels = native.levels()
    if (level !== undefined && !levels.includes(level)) {
      throw new DeviceError(`this CPU has no kernels for "${level}": it has ${levels.join(', ')} (TUTTI_CPU chooses)`)
    }
    this.#native = native
    this.#device = native.open({ level: level ?? levels[0], threads: threads ?? 0, pin: true })
    this.#options = { precision, cache }
    this.#keep = precision === 'fast' ? keep : undefined
    const { level: chosen, threads: numThreads } = native.describe(this.#device)
    this.#numThreads = numThreads
    this.name = `cpu (${chosen}, ${numThreads} ${numThreads === 1 ? 'thread' : 'threads'}, ${precision})`
  }

  async recall(matrices: readonly (readonly StoredTensor[])[]): Promise<string | undefined> {
    if (!this.#keep) return undefined
    this.#kept = await recallMatrices({ native: this.#native, device: this.#device }, this.#keep, matrices)
    return this.#kept?.note
  }

  /** Resolves when what was rounded is kept, or given up. */
  async settled(): Promise<void> {
    await this.#kept?.settled()
  }

  weightBytes(tensor: StoredTensor, { mayRound = false }: LoadOptions = {}): WeightBytes {
    if (tensor.shape.length === 1) return { own: 4 * tensor.shape[0], mapped: 0 }
    if (mayRound && this.#options.precision === 'fast') {
      const bytes = q8Bytes(tensor.shape)
      return this.#kept?.found ? { own: 0, mapped: bytes } : { own: inPages(bytes), mapped: 0 }
    }
    return tensor.location ? { own: 0, mapped: tensor.byteLength } : { own: inPages(tensor.byteLength), mapped: 0 }
  }

  cacheBytes({ numKeyValueHeads, headDim }: AttentionShape, tokens: number): number {
    return Math.ceil(Math.ceil(tokens / pageTokens) * inSlabs(this.#pageBytes(numKeyValueHeads, headDim)))
  }

  /** Instruction sets sum in other orders, and agree but for that. */
  get cacheFormat(): string {
    return `cpu 1, ${this.#options.cache}, ${this.#options.precision}`
  }

  get heldCacheBytes(): number {
    return [...this.#stores.values()].reduce((sum, store) => sum + store.bytes(), 0)
  }

  /** Whole pages are kept: what begins with the last position of one may end with the first of another. */
  snapshotBytes(shape: AttentionShape, tokens: number): number {
    return this.cacheBytes(shape, tokens - 1 + pageTokens)
  }

  /** Activations of a pass, what the hungriest kernel shares among the threads, and each thread's own. */
  passBytes(sizes: ModelSizes, tokens: number): number {
    const { hiddenSize, intermediateSize, expertsPerToken, numAttentionHeads, numKeyValueHeads, headDim } = sizes
    const attended = numAttentionHeads * headDim
    const qkv = attended + 2 * numKeyValueHeads * headDim
    // In attention, which has the most at once; the place of what was normed before is too small for its result.
    const activations = 4 * Math.max(tokens * (2 * hiddenSize + qkv + attended), tokens * hiddenSize + sizes.vocabSize)
    // Inputs of the experts' two matrices, with the scale of each 32 where they are rounded, and the outputs.
    const numberBytes = this.#options.precision === 'exact' ? 4 : 40 / 32
    const experts = tokens * expertsPerToken * ((hiddenSize + intermediateSize) * numberBytes + 4 * hiddenSize)
    const linear = tokens * Math.max(hiddenSize, attended) * numberBytes
    return inPages(activations) + inPages(Math.max(experts, linear)) + this.#numThreads * mib
  }

  #pageBytes(numKeyValueHeads: number, headDim: number): number {
    return this.#native.pageBytes(this.#device, cacheTypes[this.#options.cache], numKeyValueHeads, headDim)
  }

  async load(parts: readonly StoredTensor[], { mayRound = false, byRow = false }: LoadOptions = {}): Promise<Tensor> {
    const { name, dataType, shape } = parts[0]
    if (dataType !== 'BF16' && dataType !== 'F32') {
      throw new DeviceError(`${name} is stored as ${dataType}; the cpu device reads BF16 and F32`)
    }
    const native = this.#native
    if (shape.length === 1) {
      const values = joined(await Promise.all(parts.map(readNumbers)))
      const id = native.matrix(this.#device, 'F32', [1], values.length, [bytesOf(values)])
      return new Weight('float32', [values.length], id)
    }
    const rows = parts.map(part => part.shape[0])
    const numRows = rows.reduce((a, b) => a + b)
    const round = mayRound && this.#options.precision === 'fast'
    const kept = round ? await this.#kept?.load(parts) : undefined
    if (kept !== undefined) return new Weight('int8', [numRows, shape[1]], kept)
    const sources = await Promise.all(parts.map(part => this.#bytes(part)))
    const id = native.matrix(this.#device, dataType, rows, shape[1], sources)
    for (const source of byRow ? sources : []) {
      if (!(source instanceof Uint8Array)) native.sparse(this.#device, source.map, source.begin, source.length)
    }
    if (!round) return new Weight(dataType === 'F32' ? 'float32' : 'bfloat16', [numRows, shape[1]], id)
    for (const source of sources) await this.#populate(source)
    const rounded = await this.#finished(native.quantize(this.#device, id))
    native.release(this.#device, id)
    this.#kept?.made(parts, rounded)
    return new Weight('int8', [numRows, shape[1]], rounded)
  }

  async loadMxfp4(blocks: StoredTensor, scales: StoredTensor, { populate }: LoadOptions = {}): Promise<Tensor> {
    const [numExperts, rows, groups] = scales.shape
    const [b, s] = [await this.#bytes(blocks), await this.#bytes(scales)]
    const id = this.#native.mxfp4(this.#device, numExperts, rows, groups * 32, b, s)
    await this.#populate(s)
    const nan = await this.#finished(this.#native.findNan(this.#device, id))
    if (nan >= 0) {
      throw new CheckpointError(
        `${scales.name} has no number at byte ${nan}: a scale of 255, which MXFP4 has for what went wrong when the weights ` +
          'were made; download the model again, or ask whoever made it',
      )
    }
    if (populate) await this.#populate(b)
    return new Weight('mxfp4', [numExperts, rows, groups * 32], id)
  }

  /** Has mapped bytes lie in memory, read in their order. */
  async #populate(bytes: NativeBytes): Promise<void> {
    if (bytes instanceof Uint8Array) return
    await this.#finished(this.#native.populate(this.#device, bytes.map, bytes.begin, bytes.length))
  }

  /** Where a tensor's bytes are mapped, or a copy of them. */
  async #bytes(tensor: StoredTensor): Promise<NativeBytes> {
    if (!tensor.location) return tensor.read()
    const { path, begin } = tensor.location
    const { map, length } = this.#native.map(this.#device, path)
    if (begin + tensor.byteLength > length) {
      throw new DeviceError(
        `${path} has ${length} bytes, and ${tensor.name} ends at byte ${begin + tensor.byteLength}: ` +
          'the file was cut while it was being opened; download it again',
      )
    }
    return { map, begin, length: tensor.byteLength }
  }

  newCache(shape: AttentionShape, maxChunk: number): LayerCache {
    const { numKeyValueHeads, headDim } = shape
    const native = this.#native
    const cacheType = cacheTypes[this.#options.cache]
    const bytes = this.#pageBytes(numKeyValueHeads, headDim)
    const pages = `${numKeyValueHeads} of ${headDim}`
    let store = this.#stores.get(pages)
    if (!store) {
      store = new PageStore({
        pageBytes: inSlabs(bytes),
        take: () => native.newPage(this.#device, bytes),
        give: page => native.freePage(this.#device, page),
        copy: (from, to) => native.copyPage(this.#device, from, to),
        tokenBytes: bytes / pageTokens,
        readTokens: async (page, begin, into) => {
          while (!native.readTokens(this.#device, page, cacheType, numKeyValueHeads, headDim, begin, into)) {
            await this.#finished(native.submit(this.#device, new Float64Array(0), 0, 0, 0)) // all that is in flight
          }
        },
        writeTokens: (page, begin, from) =>
          native.writeTokens(this.#device, page, cacheType, numKeyValueHeads, headDim, begin, from),
      })
      this.#stores.set(pages, store)
    }
    return new CpuCache(store, shape.window, maxChunk)
  }

  begin({ urgent = false }: PassOptions = {}): Ops {
    return new CpuOps(
      cacheTypes[this.#options.cache],
      this.#options.precision === 'exact',
      (steps, result) => {
        const { words, arenaBytes, resultOffset } = plan(steps, result)
        return this.#native.submit(this.#device, words, arenaBytes, resultOffset, result ? result.length : 0, urgent)
      },
      pass => this.#native.stop(this.#device, pass),
    )
  }

  async #finished<T>(pass: NativePass<T>): Promise<T> {
    const value = await pass.done
    return value as T
  }

  /**
   * Bytes a second of plain reads with all threads, the best of several: the limit of decoding. Of memory of its own in
   * huge or in 4 KiB pages, or of a mapped file's first bytes, once they are in memory.
   */
  async readSpeed(what: 'huge' | 'small' | { path: string }, bytes = 2 ** 30): Promise<number> {
    let [length, best] = [bytes, Infinity]
    let map = -1
    if (typeof what === 'object') {
      const mapped = this.#native.map(this.#device, what.path)
      length = Math.min(bytes, mapped.length)
      map = mapped.map
      await this.#finished(this.#native.populate(this.#device, map, 0, length))
    }
    for (let run = 0; run < 7; run++) {
      const range = map >= 0 ? { map, begin: 0, length } : { length, huge: what === 'huge' }
      best = Math.min(best, await this.#finished(this.#native.readMemory(this.#device, range)))
    }
    return length / best
  }

  close(): void {
    this.#kept?.stop()
    this.#native.close(this.#device)
  }
}

/** A matrix or vector on the device. */
class Weight implements Tensor {
  readonly dataType: DataType
  readonly shape: readonly number[]
  readonly id: number
  constructor(dataType: DataType, shape: readonly number[], id: number) {
    this.dataType = dataType
    this.shape = shape
    this.id = id
  }
}

type Start = (steps: readonly Step[], result?: Activation) => NativePass<Float32Array>

/** Records a pass. What is asked for first makes everything run that it needs. */
class CpuOps implements Ops {
  readonly #steps: Step[] = []
  readonly #cacheType: number
  readonly #exact: boolean
  readonly #start: Start
  readonly #stop: (pass: number) => void
  readonly #running = new Set<number>()

  constructor(cacheType: number, exact: boolean, start: Start, stop: (pass: number) => void) {
    this.#cacheType = cacheType
    this.#exact = exact
    this.#start = start
    this.#stop = stop
  }

  embedding(tokens: Int32Array, table: Tensor): Tensor {
    const out = new Activation(tokens.length, table.shape[1])
    return this.#record([opcodes.embedding, idOf(table), out, tokens.length, ...tokens], [], out)
  }

  rmsNorm(x: Tensor, weight: Tensor, epsilon: number): Tensor {
    const [tokens, width] = x.shape
    const out = new Activation(tokens, width)
    return this.#record([opcodes.rmsNorm, x as Activation, tokens, width, idOf(weight), epsilon, out], [x], out)
  }

  linear(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
    const [tokens] = x.shape
    const out = new Activation(tokens, weight.shape[0])
    const words = [opcodes.linear, x as Activation, tokens, idOf(weight), bias ? idOf(bias) : -1, out]
    return this.#record(words, [x], out)
  }

  rope(qkv: Tensor, positions: Int32Array, rotary: Rotary, shape: AttentionShape): Tensor {
    const [tokens, width] = qkv.shape
    const { numAttentionHeads, numKeyValueHeads, headDim } = shape
    const out = new Activation(tokens, width)
    const sizes = [tokens, numAttentionHeads, numKeyValueHeads, headDim, rotary.concentration]
    const words = [opcodes.rope, qkv as Activation, ...sizes, out, ...positions, ...rotary.frequencies]
    return this.#record(words, [qkv], out, { inPlace: qkv as Activation })
  }

  attention(
    qkv: Tensor,
    sinks: Tensor,
    pieces: readonly Piece[],
    caches: readonly LayerCache[],
    shape: AttentionShape,
  ): Tensor {
    const [tokens] = qkv.shape
    const { numAttentionHeads, numKeyValueHeads, headDim, window } = shape
    const out = new Activation(tokens, numAttentionHeads * headDim)
    const words = [
      opcodes.attention,
      qkv as Activation,
      tokens,
      idOf(sinks),
      numAttentionHeads,
      numKeyValueHeads,
      headDim,
    ]
    words.push(Number.isFinite(window) ? window : 0, this.#cacheType, out, pieces.length)
    for (const [i, { row, count, start }] of pieces.entries()) {
      const cache = caches[i] as CpuCache
      cache.prepare(start, count)
      const { first, length, capacity, pages } = cache
      words.push(row, count, start, first, length, Number.isFinite(capacity) ? capacity : 0, pages.length, ...pages)
    }
    return this.#record(words, [qkv], out, { hasEffect: true })
  }

  topK(logits: Tensor, k: number): Routing {
    const [tokens, numExperts] = logits.shape
    const [experts, weights] = [new Activation(tokens, k), new Activation(tokens, k)]
    const words = [opcodes.topK, logits as Activation, tokens, numExperts, k, experts, weights]
    this.#steps.push({ words, reads: [logits as Activation], writes: [experts, weights] })
    return { experts, weights }
  }

  experts(x: Tensor, routing: Routing, of: Experts, swigluLimit: number): Tensor {
    const [tokens, hiddenSize] = x.shape
    const { experts, weights } = routing as { experts: Activation; weights: Activation }
    const out = new Activation(tokens, hiddenSize)
    const innerSize = of.down.shape[2]
    const words = [opcodes.experts, x as Activation, tokens, hiddenSize, innerSize, experts, weights, experts.shape[1]]
    words.push(this.#exact ? 1 : 0, idOf(of.gateUp), idOf(of.down), idOf(of.gateUpBias), idOf(of.downBias))
    words.push(swigluLimit, out)
    return this.#record(words, [x, experts, weights], out)
  }

  add(x: Tensor, y: Tensor): Tensor {
    const [rows, width] = x.shape
    const out = new Activation(rows, width)
    const words = [opcodes.add, x as Activation, y as Activation, rows * width, out]
    return this.#record(words, [x, y], out, { inPlace: x as Activation })
  }

  rows(x: Tensor, indices: Int32Array): Tensor {
    const out = new Activation(indices.length, x.shape[1])
    return this.#record([opcodes.rows, x as Activation, x.shape[1], out, indices.length, ...indices], [x], out)
  }

  async read(x: Tensor): Promise<Float32Array> {
    return this.#run(x as Activation)
  }

  async done(): Promise<void> {
    await this.#run()
  }

  async #run(result?: Activation): Promise<Float32Array> {
    const { pass, done } = this.#start(this.#steps, result)
    this.#running.add(pass)
    try {
      const numbers = await done
      if (!numbers) throw new DeviceError('the pass was abandoned before its end')
      return numbers
    } finally {
      this.#running.delete(pass)
    }
  }

  end(): void {
    for (const pass of this.#running) this.#stop(pass)
    this.#steps.length = 0
  }

  #record(words: Step['words'], reads: readonly Tensor[], out: Activation, more: Partial<Step> = {}): Activation {
    this.#steps.push({ words, reads: reads as Activation[], writes: [out], ...more })
    return out
  }
}

const idOf = (weight: Tensor): number => (weight as Weight).id
const bytesOf = (values: Float32Array) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength)

/** The numbers of a vector. */
async function readNumbers(tensor: StoredTensor): Promise<Float32Array> {
  const bytes = (await tensor.read()).slice() // aligned
  if (tensor.dataType === 'F32') return new Float32Array(bytes.buffer, 0, bytes.length / 4)
  return decodeBfloat16(new Uint16Array(bytes.buffer, 0, bytes.length / 2))
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const out = new Float32Array(parts.reduce((length, part) => length + part.length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}
