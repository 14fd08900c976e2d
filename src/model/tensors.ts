import { CheckpointError } from '../base/errors.ts'
import { quoted } from '../base/json.ts'
import type { Checkpoint, StoredTensor } from '../checkpoint/checkpoint.ts'
import { type LayerParts, type Layout, layerNames, layerOf, type OuterParts, outerNames } from '../checkpoint/names.ts'
import type { ModelConfig } from './config.ts'

type Shape = readonly number[]
type PartName = keyof OuterParts<unknown> | keyof LayerParts<unknown>

/** A tensor that a checkpoint of this configuration has. */
export interface ExpectedTensor {
  readonly name: string
  /** Our name of what it is, or is a part of. */
  readonly part: PartName
  /** safetensors' name of the type. */
  readonly dataType: 'BF16' | 'U8'
  readonly shape: Shape
}

function outerShapes({ vocabSize, hiddenSize }: ModelConfig): OuterParts<Shape[]> {
  return { embedding: [[vocabSize, hiddenSize]], norm: [[hiddenSize]], unembedding: [[vocabSize, hiddenSize]] }
}

/** Per part, the shapes of its tensors: q, k, v are one tensor of OpenAI's and three of Hugging Face's. */
function layerShapes(config: ModelConfig, layout: Layout): LayerParts<Shape[]> {
  const { hiddenSize, intermediateSize, numExperts, numAttentionHeads, numKeyValueHeads, headDim } = config
  const qSize = numAttentionHeads * headDim
  const kvSize = numKeyValueHeads * headDim
  const qkvRows = layout === 'openai' ? [qSize + 2 * kvSize] : [qSize, kvSize, kvSize]
  return {
    attentionNorm: [[hiddenSize]],
    qkv: qkvRows.map(rows => [rows, hiddenSize]),
    qkvBias: qkvRows.map(rows => [rows]),
    sinks: [[numAttentionHeads]],
    out: [[hiddenSize, qSize]],
    outBias: [[hiddenSize]],
    mlpNorm: [[hiddenSize]],
    router: [[numExperts, hiddenSize]],
    routerBias: [[numExperts]],
    gateUpBlocks: [[numExperts, 2 * intermediateSize, hiddenSize / 32, 16]],
    gateUpScales: [[numExperts, 2 * intermediateSize, hiddenSize / 32]],
    gateUpBias: [[numExperts, 2 * intermediateSize]],
    downBlocks: [[numExperts, hiddenSize, intermediateSize / 32, 16]],
    downScales: [[numExperts, hiddenSize, intermediateSize / 32]],
    downBias: [[numExperts, hiddenSize]],
  }
}

/** Every tensor of a checkpoint in the order of the forward pass; lazily, for a configuration may lie about its layers. */
export function* expectedTensors(config: ModelConfig, layout: Layout): Generator<ExpectedTensor> {
  const { embedding, norm, unembedding } = pair(outerNames(layout), outerShapes(config))
  yield* embedding
  const shapes = layerShapes(config, layout)
  for (let n = 0; n < config.numHiddenLayers; n++) {
    for (const tensors of Object.values(pair(layerNames(layout, n), shapes))) yield* tensors
  }
  yield* norm
  yield* unembedding
}

/** The tensors of each part, from names and shapes of the same parts. */
function pair<Part extends PartName>(
  names: Record<Part, readonly string[]>,
  shapes: Record<Part, readonly Shape[]>,
): Record<Part, ExpectedTensor[]> {
  const parts = Object.keys(names) as Part[]
  const tensorsOf = (part: Part): ExpectedTensor[] =>
    names[part].map((name, i) => ({ name, part, dataType: isMxfp4(part) ? 'U8' : 'BF16', shape: shapes[part][i] }))
  return Object.fromEntries(parts.map(part => [part, tensorsOf(part)])) as Record<Part, ExpectedTensor[]>
}

const isMxfp4 = (part: string): boolean => part.endsWith('Blocks') || part.endsWith('Scales')

/**
 * Checks that the checkpoint has the tensors of its configuration, of the right type and shape, and no others: a tensor
 * that nobody reads means another architecture or a forgotten adapter. Throws CheckpointError with the likely cause.
 */
export function checkTensors(checkpoint: Checkpoint, config: ModelConfig): void {
  refuseUnquantized(checkpoint)
  let count = 0
  for (const expected of expectedTensors(config, checkpoint.layout)) {
    const tensor = checkpoint.tensors.get(expected.name)
    if (!tensor) refuseMissing(checkpoint, config, expected)
    if (tensor.dataType !== expected.dataType) refuseType(checkpoint, tensor, expected)
    if (!sameShape(tensor.shape, expected.shape)) refuseShape(checkpoint, config, tensor, expected)
    count++
  }
  if (checkpoint.tensors.size > count) refuseOthers(checkpoint, config)
}

function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((size, i) => size === b[i])
}

/** transformers saves the experts dequantised where it had no kernels to keep them as they were. */
function refuseUnquantized(checkpoint: Checkpoint): void {
  const unpacked = /\.mlp\.experts\.(gate_up_proj|down_proj)$/
  const tensor = [...checkpoint.tensors.values()].find(({ name }) => unpacked.test(name))
  if (!tensor) return
  throw new CheckpointError(
    `${tensor.name} in ${checkpoint.folder.path} is ${tensor.dataType} [${tensor.shape.join(', ')}]: the experts were saved unquantised. ` +
      'When tutti loads a model from a local folder (tutti chat --model FOLDER), it packs experts of BF16, F16 or F32 [experts, ' +
      'inputs, outputs] to MXFP4 in its cache, once; elsewhere use the published model, or one saved in MXFP4',
  )
}

function refuseMissing(checkpoint: Checkpoint, config: ModelConfig, expected: ExpectedTensor): never {
  throw new CheckpointError(
    `${checkpoint.folder.path} has no tensor ${expected.name}, expected ${expected.dataType} [${expected.shape.join(', ')}] ` +
      `(${checkpoint.tensors.size} others are there): ${likelyCause(checkpoint, config, 'a file of the model is missing; download it again')}`,
  )
}

function refuseType(checkpoint: Checkpoint, tensor: StoredTensor, expected: ExpectedTensor): never {
  throw new CheckpointError(
    `${tensor.name} in ${checkpoint.folder.path} has type ${tensor.dataType}, expected ${expected.dataType}: ` +
      'gpt-oss is bfloat16 with MXFP4 experts; download the published files, or save yours so',
  )
}

function refuseShape(
  checkpoint: Checkpoint,
  config: ModelConfig,
  tensor: StoredTensor,
  expected: ExpectedTensor,
): never {
  throw new CheckpointError(
    `${tensor.name} has shape [${tensor.shape.join(', ')}], expected [${expected.shape.join(', ')}]: ` +
      likelyCause(
        checkpoint,
        config,
        `weights and configuration are of different models; check ${checkpoint.configPath}`,
      ),
  )
}

function refuseOthers(checkpoint: Checkpoint, config: ModelConfig): never {
  const known = new Set([...expectedTensors(config, checkpoint.layout)].map(tensor => tensor.name))
  const others = [...checkpoint.tensors.keys()].filter(name => !known.has(name))
  const some = others.slice(0, 3).map(quoted).join(', ')
  throw new CheckpointError(
    `${checkpoint.folder.path} has ${others.length} tensors that gpt-oss with this configuration does not have (${some}${others.length > 3 ? ', …' : ''}): ` +
      likelyCause(checkpoint, config, 'use the published model, without adapters or added layers'),
  )
}

const published = [
  { model: 'gpt-oss-20b', layers: 24, experts: 32 },
  { model: 'gpt-oss-120b', layers: 36, experts: 128 },
]

/** Names the mix-up if the sizes of weights and configuration tell it, otherwise `otherwise`. */
function likelyCause(checkpoint: Checkpoint, config: ModelConfig, otherwise: string): string {
  const numbers = [...checkpoint.tensors.keys()].map(name => layerOf(name) ?? -1)
  const layers = numbers.reduce((most, n) => Math.max(most, n + 1), 0)
  const router = checkpoint.tensors.get(layerNames(checkpoint.layout, 0).router[0])
  const experts = router?.shape[0]
  const configured = published.find(m => m.layers === config.numHiddenLayers && m.experts === config.numExperts)
  const found = published.find(m => m.layers === layers && m.experts === experts)
  if (configured && found && configured !== found) {
    return `this looks like ${found.model} with the config of ${configured.model}; check ${checkpoint.configPath}`
  }
  if (layers !== config.numHiddenLayers) {
    return `the weights have ${layers} layers and the configuration ${config.numHiddenLayers}; check ${checkpoint.configPath}, or download the missing files`
  }
  if (experts !== undefined && experts !== config.numExperts) {
    return `the weights have ${experts} experts and the configuration ${config.numExperts}; check ${checkpoint.configPath}`
  }
  return otherwise
}
