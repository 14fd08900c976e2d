import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { CpuDevice } from '../../src/device/cpu.node.ts'
import { loadNative, type Native } from '../../src/device/native.node.ts'
import { ReferenceDevice } from '../../src/device/reference.ts'
import { ReferenceCache } from '../../src/kernels/attention/cache.ref.ts'
import type { AttentionShape, LoadOptions } from '../../src/kernels/ops.ts'
import type { StoredTensor, Tensor } from '../../src/kernels/tensor.ts'
import { rounded, stored } from '../../src/kernels/testing.ts'
import type { Transformer } from '../../src/model/transformer.ts'
import { Agreement, compare, type Pair } from './agreement.ts'
import type { Document } from './documents.ts'
import { documents, openSmallNano } from './small.ts'

const native = loadNative()
const skip = typeof native === 'string' ? `no native kernels: ${native}` : false

describe('what gpt-oss-nano expects at the supervised positions of its test set', { skip }, () => {
  const kernels = native as Native
  const threads = 1 // each; the models run side by side

  // One document a skill: the reference would take most of an hour for all of them.
  const some = documents.filter((_, n) => n % 80 === 3)

  it('is, with exact numbers, what the reference expects with keys and values in bfloat16', async t => {
    const models = {
      reference: await openSmallNano(new ReferenceDevice()),
      'reference with a bf16 cache': await openSmallNano(new Bfloat16Caches()),
      exact: await openSmallNano(new CpuDevice(kernels, { precision: 'exact', threads })),
      '8 bits': await openSmallNano(new CpuDevice(kernels, { precision: 'fast', threads })),
    }
    const [cache, sums, whole, fast] = await agreements(t, models, some, [
      ['reference', 'reference with a bf16 cache'],
      ['reference with a bf16 cache', 'exact'],
      ['reference', 'exact'],
      ['reference', '8 bits'],
    ])
    assert.ok(sums.mean <= 1e-9 && sums.sameTopShare === 1) // float32 sums in another order: 5e-11
    for (const { mean } of [cache, whole]) assert.ok(mean <= 1e-5) // bfloat16 keys and values: 7e-7
    assert.ok(fast.mean <= 2e-4 && fast.sameTopShare >= 0.995)
  })

  it('hardly changes with 8 bits: by matrices, by activations and by the cache', async t => {
    const models = {
      exact: await openSmallNano(new CpuDevice(kernels, { precision: 'exact', threads })),
      '8-bit matrices': await openSmallNano(new RoundedMatrices(kernels, threads)),
      '8 bits': await openSmallNano(new CpuDevice(kernels, { precision: 'fast', threads })),
      '8 bits and cache': await openSmallNano(new CpuDevice(kernels, { precision: 'fast', cache: 'q8', threads })),
    }
    const [matrices, activations, both, cache, everything] = await agreements(t, models, documents, [
      ['exact', '8-bit matrices'],
      ['8-bit matrices', '8 bits'], // the same matrices
      ['exact', '8 bits'],
      ['8 bits', '8 bits and cache'],
      ['exact', '8 bits and cache'],
    ])
    // A cache of 8 bits rounds what attention reads as coarsely as its matrices are: it may cost what they may.
    for (const { mean, sameTopShare } of [matrices, activations, both, cache, everything]) {
      assert.ok(mean <= 2e-4 && sameTopShare >= 0.995)
    }
  })
})

async function agreements<Name extends string>(
  t: { diagnostic(message: string): void },
  models: Record<Name, Transformer>,
  of: readonly Document[],
  names: readonly [right: Name, got: Name][],
): Promise<Agreement[]> {
  const pairs = names.map(([right, got]): Pair<Name> => ({ right, got, agreement: new Agreement() }))
  const left = of.values()
  const some = async () => {
    for (const document of left) await compare(models, pairs, document)
  }
  await Promise.all([some(), some()]) // the models run one document while JavaScript compares the other
  for (const name in models) models[name].close()
  for (const { right, got, agreement } of pairs) t.diagnostic(`${right} → ${got}: ${agreement}`)
  return pairs.map(({ agreement }) => agreement)
}

/** The reference, but keys and values are kept in bfloat16, as the cpu device keeps them. */
class Bfloat16Caches extends ReferenceDevice {
  override newCache(shape: AttentionShape, maxChunk: number) {
    return new Bfloat16Cache(shape, maxChunk)
  }
}

class Bfloat16Cache extends ReferenceCache {
  override write(position: number, qkv: Float32Array, keyAt: number, valueAt: number): void {
    super.write(position, rounded(qkv.subarray(keyAt, valueAt + this.width)), 0, valueAt - keyAt)
  }
}

/** Exact but for the matrices that may be rounded: those are what the 8 bits of the fast device stand for, in float32. */
class RoundedMatrices extends CpuDevice {
  readonly #fast: CpuDevice

  constructor(kernels: Native, threads: number) {
    super(kernels, { precision: 'exact', threads })
    this.#fast = new CpuDevice(kernels, { precision: 'fast', threads })
  }

  override async load(parts: readonly StoredTensor[], { mayRound = false }: LoadOptions = {}): Promise<Tensor> {
    return super.load(mayRound ? [await this.#rounded(parts)] : parts)
  }

  /** Column by column, through products with unit vectors: these are exact in 8 bits, too. */
  async #rounded(parts: readonly StoredTensor[]): Promise<StoredTensor> {
    const matrix = await this.#fast.load(parts, { mayRound: true })
    const [rows, cols] = matrix.shape
    const identity = Float32Array.from({ length: cols * cols }, (_, i) => (i % (cols + 1) === 0 ? 1 : 0))
    const units = await this.#fast.load([stored('unit vectors', [cols, cols], identity)])
    const numbers = new Float32Array(rows * cols)
    for (let col = 0; col < cols; col++) {
      const ops = this.#fast.begin()
      const column = await ops.read(ops.linear(ops.embedding(Int32Array.of(col), units), matrix))
      ops.end()
      for (let row = 0; row < rows; row++) numbers[row * cols + col] = column[row]
    }
    return stored(parts[0].name, [rows, cols], numbers)
  }

  override close(): void {
    this.#fast.close()
    super.close()
  }
}
