import type { Checkpoint } from '../checkpoint/checkpoint.ts'
import { type LayerParts, layerNames, type OuterParts, outerNames } from '../checkpoint/names.ts'
import type { Device, WeightBytes } from '../kernels/ops.ts'
import type { StoredTensor, Tensor } from '../kernels/tensor.ts'
import type { ModelConfig } from './config.ts'
import { expectedTensors } from './tensors.ts'
import type { Layer, Weights } from './transformer.ts'

/** Matrices that are read whole for every token: a device may halve them. Errors of a router choose other experts. */
const roundable: ReadonlySet<string> = new Set(['qkv', 'out', 'unembedding'])

/** The memory that the weights will take on a device, and what of it one token reads: its experts, and every other matrix. */
export interface WeightPlan extends WeightBytes {
  readonly perToken: WeightBytes
  /** Of what is mapped, the experts: a token reads `expertShare` of them. */
  readonly mappedExperts: number
  readonly expertShare: number
  /** Of what is mapped, the embedding: a token reads one row. */
  readonly mappedEmbedding: number
}

/** The matrices that a device may round, each with its parts, in the order of `loadWeights`. */
export function roundableMatrices(checkpoint: Checkpoint, config: ModelConfig): StoredTensor[][] {
  const matrices: StoredTensor[][] = []
  let last: string | undefined
  for (const { name, part } of expectedTensors(config, checkpoint.layout)) {
    if (roundable.has(part) && part === last) matrices.at(-1)!.push(checkpoint.tensors.get(name)!)
    else if (roundable.has(part)) matrices.push([checkpoint.tensors.get(name)!])
    last = part
  }
  return matrices
}

export function planWeights(
  device: Pick<Device, 'weightBytes'>,
  checkpoint: Pick<Checkpoint, 'layout'> & {
    readonly tensors: { get(name: string): Omit<StoredTensor, 'read'> | undefined }
  },
  config: ModelConfig,
): WeightPlan {
  let [own, mapped, ownRead, mappedRead, mappedExperts, mappedEmbedding] = [0, 0, 0, 0, 0, 0]
  const expertShare = config.expertsPerToken / config.numExperts
  for (const { name, part } of expectedTensors(config, checkpoint.layout)) {
    const bytes = device.weightBytes(checkpoint.tensors.get(name)!, { mayRound: roundable.has(part) })
    own += bytes.own
    mapped += bytes.mapped
    if (part === 'embedding') {
      mappedEmbedding = bytes.mapped
      continue
    }
    const ofExperts = /^(gateUp|down)/.test(part)
    if (ofExperts) mappedExperts += bytes.mapped
    const share = ofExperts ? expertShare : 1
    ownRead += bytes.own * share
    mappedRead += bytes.mapped * share
  }
  const perToken = { own: ownRead, mapped: mappedRead }
  return { own, mapped, perToken, mappedExperts, expertShare, mappedEmbedding }
}

/** Bytes that find no room in memory, and how many of them have to come from the disk for every token. */
export interface Paging {
  readonly missing: number
  readonly perToken: number
}

/** What a process of `ownBytes` beside these weights reads again and again where so much memory can be taken, if it does. */
export function planPaging(weights: WeightPlan, ownBytes: number, available: number): Paging | undefined {
  const { mapped, mappedExperts, mappedEmbedding, expertShare } = weights
  const missing = ownBytes + mapped - mappedEmbedding - available
  if (missing <= 0) return undefined
  // What every token reads stays in memory longest; beyond the experts, it has to come from the disk whole.
  return { missing, perToken: expertShare * Math.min(missing, mappedExperts) + Math.max(0, missing - mappedExperts) }
}

/**
 * Puts a checkpoint's weights on a device, layer by layer. The tensors have been checked against the configuration.
 * `onProgress` is told after each tensor how many bytes have been read; `signal` ends it between two; `populate` is the
 * device's option.
 */
export async function loadWeights(
  device: Device,
  checkpoint: Checkpoint,
  config: ModelConfig,
  options: { onProgress?: (doneBytes: number) => void; signal?: AbortSignal; populate?: boolean } = {},
): Promise<Weights> {
  const { onProgress = () => {}, signal, populate } = options
  let done = 0
  const stored = (names: readonly string[]) => {
    signal?.throwIfAborted()
    return names.map(name => checkpoint.tensors.get(name)!)
  }
  const report = (parts: readonly StoredTensor[]) =>
    onProgress((done += parts.reduce((sum, p) => sum + p.byteLength, 0)))
  const load = async (part: string, names: readonly string[]): Promise<Tensor> => {
    const parts = stored(names)
    const tensor = await device.load(parts, { mayRound: roundable.has(part), byRow: part === 'embedding' })
    report(parts)
    return tensor
  }
  const loadMxfp4 = async (blockNames: readonly string[], scaleNames: readonly string[]): Promise<Tensor> => {
    const [blocks, scales] = stored([...blockNames, ...scaleNames])
    const tensor = await device.loadMxfp4(blocks, scales, { populate })
    report([blocks, scales])
    return tensor
  }

  const loadLayer = async (names: LayerParts<readonly string[]>): Promise<Layer> => ({
    attentionNorm: await load('attentionNorm', names.attentionNorm),
    qkv: await load('qkv', names.qkv),
    qkvBias: await load('qkvBias', names.qkvBias),
    sinks: await load('sinks', names.sinks),
    out: await load('out', names.out),
    outBias: await load('outBias', names.outBias),
    mlpNorm: await load('mlpNorm', names.mlpNorm),
    router: await load('router', names.router),
    routerBias: await load('routerBias', names.routerBias),
    experts: {
      gateUp: await loadMxfp4(names.gateUpBlocks, names.gateUpScales),
      gateUpBias: await load('gateUpBias', names.gateUpBias),
      down: await loadMxfp4(names.downBlocks, names.downScales),
      downBias: await load('downBias', names.downBias),
    },
  })

  const outer: OuterParts<readonly string[]> = outerNames(checkpoint.layout)
  const embedding = await load('embedding', outer.embedding)
  const layers: Layer[] = []
  for (let n = 0; n < config.numHiddenLayers; n++) layers.push(await loadLayer(layerNames(checkpoint.layout, n)))
  return {
    embedding,
    layers,
    norm: await load('norm', outer.norm),
    unembedding: await load('unembedding', outer.unembedding),
  }
}
