import type { Checkpoint } from '../checkpoint/checkpoint.ts'
import { type LayerParts, layerNames, type OuterParts, outerNames } from '../checkpoint/names.ts'
import type { Device } from '../kernels/ops.ts'
import type { StoredTensor, Tensor } from '../kernels/tensor.ts'
import type { ModelConfig } from './config.ts'
import type { Layer, Weights } from './transformer.ts'

/**
 * Puts a checkpoint's weights on a device, layer by layer. The tensors have been checked against the configuration.
 * `onProgress` is told after each tensor how many bytes have been read.
 */
export async function loadWeights(
  device: Device,
  checkpoint: Checkpoint,
  config: ModelConfig,
  onProgress: (doneBytes: number) => void = () => {},
): Promise<Weights> {
  let done = 0
  const stored = (names: readonly string[]) => names.map(name => checkpoint.tensors.get(name)!)
  const report = (parts: readonly StoredTensor[]) =>
    onProgress((done += parts.reduce((sum, p) => sum + p.byteLength, 0)))
  const load = async (names: readonly string[]): Promise<Tensor> => {
    const parts = stored(names)
    const tensor = await device.load(parts)
    report(parts)
    return tensor
  }
  const loadMxfp4 = async (blockNames: readonly string[], scaleNames: readonly string[]): Promise<Tensor> => {
    const [blocks, scales] = stored([...blockNames, ...scaleNames])
    const tensor = await device.loadMxfp4(blocks, scales)
    report([blocks, scales])
    return tensor
  }

  const loadLayer = async (names: LayerParts<readonly string[]>): Promise<Layer> => ({
    attentionNorm: await load(names.attentionNorm),
    qkv: await load(names.qkv),
    qkvBias: await load(names.qkvBias),
    sinks: await load(names.sinks),
    out: await load(names.out),
    outBias: await load(names.outBias),
    mlpNorm: await load(names.mlpNorm),
    router: await load(names.router),
    routerBias: await load(names.routerBias),
    experts: {
      gateUp: await loadMxfp4(names.gateUpBlocks, names.gateUpScales),
      gateUpBias: await load(names.gateUpBias),
      down: await loadMxfp4(names.downBlocks, names.downScales),
      downBias: await load(names.downBias),
    },
  })

  const outer: OuterParts<readonly string[]> = outerNames(checkpoint.layout)
  const embedding = await load(outer.embedding)
  const layers: Layer[] = []
  for (let n = 0; n < config.numHiddenLayers; n++) layers.push(await loadLayer(layerNames(checkpoint.layout, n)))
  return { embedding, layers, norm: await load(outer.norm), unembedding: await load(outer.unembedding) }
}
