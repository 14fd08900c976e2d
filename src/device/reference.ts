import { DeviceError } from '../base/errors.ts'
import { attention } from '../kernels/attention/attention.ref.ts'
import { type Account, ReferenceCache, roomFor } from '../kernels/attention/cache.ref.ts'
import { embedding } from '../kernels/embedding/embedding.ref.ts'
import { experts } from '../kernels/experts/experts.ref.ts'
import { linear } from '../kernels/linear/linear.ref.ts'
import { type Mxfp4Rows, RowReader, type StoredRows } from '../kernels/matrix.ref.ts'
import type {
  AttentionShape,
  Device,
  Experts,
  LayerCache,
  ModelSizes,
  Ops,
  Piece,
  Rotary,
  Routing,
  WeightBytes,
} from '../kernels/ops.ts'
import { rmsNorm } from '../kernels/rms-norm/rms-norm.ref.ts'
import { rope } from '../kernels/rope/rope.ref.ts'
import type { DataType, StoredTensor, Tensor } from '../kernels/tensor.ts'
import { topK } from '../kernels/top-k/top-k.ref.ts'

/**
 * The definition of every op in plain TypeScript: float32 between operations, float64 inside them. A row's result does
 * not depend on what else is in the batch, so answers are the same bit for bit under any chunking or batching.
 */
export class ReferenceDevice implements Device {
  readonly name = 'reference'
  readonly maxChunk = 64 // tokens: progress and cancelling within a prefill stay fine-grained
  readonly cacheFormat = 'reference 1, float32'
  readonly #caches: Account = { bytes: 0 }

  weightBytes(tensor: Pick<StoredTensor, 'byteLength'>): WeightBytes {
    return { own: tensor.byteLength, mapped: 0 }
  }

  cacheBytes({ numKeyValueHeads, headDim, window }: AttentionShape, tokens: number): number {
    return 2 * 4 * numKeyValueHeads * headDim * roomFor(tokens, window)
  }

  snapshotBytes({ numKeyValueHeads, headDim }: AttentionShape, tokens: number): number {
    return 2 * 4 * numKeyValueHeads * headDim * tokens
  }

  get heldCacheBytes(): number {
    return this.#caches.bytes
  }

  passBytes(sizes: ModelSizes, tokens: number): number {
    const { hiddenSize, intermediateSize, expertsPerToken, numAttentionHeads, numKeyValueHeads, headDim } = sizes
    const widest = Math.max(
      expertsPerToken * (2 * intermediateSize + hiddenSize),
      (numAttentionHeads + 2 * numKeyValueHeads) * headDim,
    )
    const garbage = 32 * 2 ** 20 // activations of earlier passes, measured: V8 does not hurry to collect what is no object
    return 4 * (tokens * 4 * widest + 2 * sizes.vocabSize) + garbage
  }

  async load(parts: readonly StoredTensor[]): Promise<Tensor> {
    const dataType = storedAs(parts[0])
    const loaded = joined(await Promise.all(parts.map(part => part.read())))
    const shape = [parts.reduce((rows, part) => rows + part.shape[0], 0), ...parts[0].shape.slice(1)]
    if (dataType === 'float32') return new Held(dataType, shape, new Float32Array(loaded.buffer))
    // Vectors are small and read as a whole: they are widened once, here.
    const bits = new Uint16Array(loaded.buffer)
    if (shape.length > 1) return new Held(dataType, shape, bits)
    return new Held('float32', shape, new RowReader(shape[0]).read(bits, 0))
  }

  async loadMxfp4(blocks: StoredTensor, scales: StoredTensor): Promise<Tensor> {
    const [numExperts, rows, groups] = scales.shape
    const data = { blocks: await blocks.read(), scales: await scales.read() }
    return new Held('mxfp4', [numExperts, rows, groups * 32], data)
  }

  newCache(shape: AttentionShape, maxChunk: number): LayerCache {
    return new ReferenceCache(shape, maxChunk, this.#caches)
  }

  begin(): Ops {
    return new ReferenceOps()
  }

  close(): void {}
}

/** A tensor of the reference device: its numbers lie in plain arrays. */
class Held implements Tensor {
  readonly dataType: DataType
  readonly shape: readonly number[]
  readonly data: StoredRows | Mxfp4Rows
  constructor(dataType: DataType, shape: readonly number[], data: StoredRows | Mxfp4Rows) {
    this.dataType = dataType
    this.shape = shape
    this.data = data
  }
}

class ReferenceOps implements Ops {
  embedding(tokens: Int32Array, table: Tensor): Tensor {
    return activation(embedding(tokens, rowsOf(table), lastOf(table)), lastOf(table))
  }

  rmsNorm(x: Tensor, weight: Tensor, epsilon: number): Tensor {
    return activation(rmsNorm(numbersOf(x), numbersOf(weight), epsilon), lastOf(x))
  }

  linear(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
    const [outSize, inSize] = weight.shape
    return activation(linear(numbersOf(x), rowsOf(weight), bias && numbersOf(bias), inSize, outSize), outSize)
  }

  rope(qkv: Tensor, positions: Int32Array, rotary: Rotary, shape: AttentionShape): Tensor {
    return activation(rope(numbersOf(qkv), positions, rotary, shape), lastOf(qkv))
  }

  attention(
    qkv: Tensor,
    sinks: Tensor,
    pieces: readonly Piece[],
    caches: readonly LayerCache[],
    shape: AttentionShape,
  ): Tensor {
    const out = attention(numbersOf(qkv), numbersOf(sinks), pieces, caches as readonly ReferenceCache[], shape)
    return activation(out, shape.numAttentionHeads * shape.headDim)
  }

  topK(logits: Tensor, k: number): Routing {
    const { experts, weights } = topK(numbersOf(logits), lastOf(logits), k)
    return { experts: activation(Float32Array.from(experts), k), weights: activation(weights, k) }
  }

  experts(x: Tensor, routing: Routing, of: Experts, swigluLimit: number): Tensor {
    const hiddenSize = lastOf(x)
    const out = experts(
      numbersOf(x),
      Int32Array.from(numbersOf(routing.experts)),
      numbersOf(routing.weights),
      {
        gateUp: mxfp4Of(of.gateUp),
        gateUpBias: rowsOf(of.gateUpBias),
        down: mxfp4Of(of.down),
        downBias: rowsOf(of.downBias),
      },
      { hiddenSize, innerSize: lastOf(of.down), k: lastOf(routing.experts), swigluLimit },
    )
    return activation(out, hiddenSize)
  }

  add(x: Tensor, y: Tensor): Tensor {
    const other = numbersOf(y)
    return activation(
      numbersOf(x).map((value, i) => value + other[i]),
      lastOf(x),
    )
  }

  rows(x: Tensor, indices: Int32Array): Tensor {
    return this.embedding(indices, x)
  }

  async read(x: Tensor): Promise<Float32Array> {
    return numbersOf(x)
  }

  async done(): Promise<void> {}

  end(): void {}
}

function activation(data: Float32Array, width: number): Held {
  return new Held('float32', [data.length / width, width], data)
}

const lastOf = (tensor: Tensor): number => tensor.shape[tensor.shape.length - 1]
const rowsOf = (tensor: Tensor): StoredRows => (tensor as Held).data as StoredRows
const numbersOf = (tensor: Tensor): Float32Array => (tensor as Held).data as Float32Array
const mxfp4Of = (tensor: Tensor): Mxfp4Rows => (tensor as Held).data as Mxfp4Rows

function storedAs(tensor: StoredTensor): 'float32' | 'bfloat16' {
  if (tensor.dataType === 'BF16') return 'bfloat16'
  if (tensor.dataType === 'F32') return 'float32'
  throw new DeviceError(`${tensor.name} is stored as ${tensor.dataType}; the reference device reads BF16 and F32`)
}

/** All parts in one array that fills its memory; one part that does is not copied. */
function joined(parts: readonly Uint8Array[]): Uint8Array {
  if (parts.length === 1 && parts[0].byteLength === parts[0].buffer.byteLength) return parts[0]
  const out = new Uint8Array(parts.reduce((length, part) => length + part.length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}
