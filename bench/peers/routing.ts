import type { Device, Ops, Routing } from '../../src/kernels/ops.ts'
import type { StoredTensor, Tensor } from '../../src/kernels/tensor.ts'
import { topK } from '../../src/kernels/top-k/top-k.ref.ts'
import type { Chunk, Transformer } from '../../src/model/transformer.ts'

/**
 * A device whose passes can be asked which experts each layer chose. The model and the device know nothing of it: a pass
 * that is asked gives, instead of logits, what every layer's top-k was given, and does nothing for others.
 */
export class RoutingWatch {
  readonly device: Device
  readonly #slots: Tensor[] = []
  #pass: WatchedPass | undefined

  constructor(device: Device) {
    this.device = overlaid(device, { begin: () => this.#pass?.over(device.begin()) ?? device.begin() })
  }

  /**
   * How many experts each layer chose for the batch's tokens together, all of whose logits must be wanted: the last layer
   * routes no others. A batch that has run already may run again.
   */
  async distinctExperts(model: Transformer, batch: readonly Chunk[]): Promise<number[]> {
    const { numHiddenLayers, numExperts, expertsPerToken } = model.config
    for (let n = this.#slots.length; n < numHiddenLayers; n++) {
      this.#slots.push(await this.device.load([slotMatrix(n, numHiddenLayers, numExperts)]))
    }
    this.#pass = new WatchedPass(this.#slots)
    let given: Float32Array
    try {
      given = (await model.forward(batch))! // [T, numHiddenLayers * numExperts]
    } finally {
      this.#pass = undefined
    }
    // Row by row these are the layers' logits of one token, so every layer's chosen experts lie numHiddenLayers apart.
    const { experts } = topK(given, numExperts, expertsPerToken)
    return Array.from({ length: numHiddenLayers }, (_, layer) => {
      const isOfLayer = (_: number, i: number) => Math.floor(i / expertsPerToken) % numHiddenLayers === layer
      return new Set(experts.filter(isOfLayer)).size
    })
  }
}

/** Puts the router's logits of all layers side by side: a sum of products with matrices of zeros and ones is exact. */
class WatchedPass {
  readonly #slots: readonly Tensor[]
  #layer = 0
  #gathered: Tensor | undefined

  constructor(slots: readonly Tensor[]) {
    this.#slots = slots
  }

  over(ops: Ops): Ops {
    return overlaid(ops, {
      topK: (logits: Tensor, k: number): Routing => {
        const placed = ops.linear(logits, this.#slots[this.#layer++])
        this.#gathered = this.#gathered ? ops.add(this.#gathered, placed) : placed
        return ops.topK(logits, k)
      },
      read: () => ops.read(this.#gathered!),
    })
  }
}

/** `object` with other methods in the place of some of its own. */
function overlaid<T extends object>(object: T, methods: Partial<T>): T {
  return new Proxy(object, {
    get(target, key) {
      if (key in methods) return methods[key as keyof T]
      const value = Reflect.get(target, key)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

/** Takes a layer's logits [numExperts] to its place in [numLayers * numExperts], and zeros everywhere else. */
function slotMatrix(layer: number, numLayers: number, numExperts: number): StoredTensor {
  const values = new Float32Array(numLayers * numExperts * numExperts)
  for (let e = 0; e < numExperts; e++) values[(layer * numExperts + e) * numExperts + e] = 1
  const bytes = new Uint8Array(values.buffer)
  return {
    name: `slot ${layer}`,
    dataType: 'F32',
    shape: [numLayers * numExperts, numExperts],
    byteLength: bytes.length,
    read: async () => bytes,
  }
}
