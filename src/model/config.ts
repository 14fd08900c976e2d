import type { JsonObject, JsonValue } from '../base/json.ts'
import { ConfigReader } from './config-reader.ts'
import { readRope } from './config-rope.ts'

/** The numbers in which gpt-oss checkpoints differ; everything else of the architecture is fixed. */
export interface ModelConfig {
  readonly numHiddenLayers: number
  readonly numExperts: number
  readonly expertsPerToken: number
  readonly vocabSize: number
  readonly hiddenSize: number
  /** Of one expert, behind SwiGLU. */
  readonly intermediateSize: number
  readonly headDim: number
  readonly numAttentionHeads: number
  readonly numKeyValueHeads: number
  /** Tokens that even layers see, the current one included. */
  readonly slidingWindow: number
  readonly initialContextLength: number
  readonly ropeTheta: number
  /** At most 1: no YaRN. */
  readonly ropeScalingFactor: number
  readonly ropeNtkAlpha: number
  readonly ropeNtkBeta: number
  readonly swigluLimit: number
  readonly rmsNormEpsilon: number
  /** Tokens of context. */
  readonly maxPositionEmbeddings: number
  /** As `config.json` names them, if it does. */
  readonly eosTokenIds?: readonly number[]
}

/**
 * Translates `config.json`, OpenAI's or Hugging Face's, and refuses every other architecture. `path` is for messages.
 * Sizes must be there; constants of the architecture may be missing. Throws CheckpointError: field, value, expected.
 */
export function readConfig(raw: JsonObject, path: string): ModelConfig {
  const read = new ConfigReader(raw, path)
  checkArchitecture(read)
  const numHiddenLayers = read.size('num_hidden_layers')
  const sizes = {
    numHiddenLayers,
    numExperts: read.size('num_experts', 'num_local_experts'),
    expertsPerToken: read.size('experts_per_token', 'num_experts_per_tok'),
    vocabSize: read.size('vocab_size'),
    hiddenSize: read.size('hidden_size'),
    intermediateSize: read.size('intermediate_size'),
    headDim: read.size('head_dim'),
    numAttentionHeads: read.size('num_attention_heads'),
    numKeyValueHeads: read.size('num_key_value_heads'),
    slidingWindow: read.size('sliding_window'),
  }
  checkLayerTypes(read, numHiddenLayers)
  checkSizes(read, sizes)
  return {
    ...sizes,
    ...readRope(read, sizes.headDim),
    swigluLimit: read.positive('swiglu_limit', 7),
    rmsNormEpsilon: read.positive('rms_norm_eps', 1e-5),
    eosTokenIds: readEosTokenIds(read),
  }
}

/** What a config may say of the architecture, and the one value that gpt-oss has; a missing field has it too. */
const fixedFields: readonly (readonly [field: string, value: JsonValue])[] = [
  ['model_type', 'gpt_oss'],
  ['attention_bias', true],
  ['hidden_act', 'silu'],
  ['swiglu_alpha', 1.702],
  ['tie_word_embeddings', false],
  ['mlp_bias', true],
  ['partial_rotary_factor', 1],
]

function checkArchitecture(read: ConfigReader): void {
  for (const [field, value] of fixedFields) read.fixed(field, value)
  const architectures = read.value('architectures')
  if (architectures !== undefined && !(Array.isArray(architectures) && architectures.includes('GptOssForCausalLM'))) {
    read.refuse('architectures', '["GptOssForCausalLM"]', 'tutti runs gpt-oss-20b and gpt-oss-120b')
  }
  const quantization = read.object('quantization_config')
  quantization?.fixed('quant_method', 'mxfp4', 'the published files of gpt-oss are MXFP4; download those')
}

/** Even layers windowed, odd layers full. */
function checkLayerTypes(read: ConfigReader, numHiddenLayers: number): void {
  const types = read.value('layer_types')
  if (types === undefined) return
  const kinds = ['sliding_attention', 'full_attention']
  const alternates = Array.isArray(types) && types.every((type, n) => type === kinds[n % 2])
  if (!alternates) read.refuse('layer_types', 'sliding_attention and full_attention in turn, sliding first')
  if (types.length !== numHiddenLayers) {
    read.refuse('layer_types', `one entry for each of num_hidden_layers = ${numHiddenLayers}, not ${types.length}`)
  }
}

type Sizes = Pick<
  ModelConfig,
  | 'numExperts'
  | 'expertsPerToken'
  | 'hiddenSize'
  | 'intermediateSize'
  | 'headDim'
  | 'numAttentionHeads'
  | 'numKeyValueHeads'
>

function checkSizes(read: ConfigReader, sizes: Sizes): void {
  if (sizes.expertsPerToken > sizes.numExperts) {
    read.refuse('experts_per_token', `at most num_experts = ${sizes.numExperts}`)
  }
  if (sizes.numAttentionHeads % sizes.numKeyValueHeads !== 0) {
    read.refuse('num_attention_heads', `a multiple of num_key_value_heads = ${sizes.numKeyValueHeads}`)
  }
  if (sizes.headDim % 2 !== 0) read.refuse('head_dim', 'an even number: rotary turns pairs')
  if (sizes.hiddenSize % 32 !== 0) read.refuse('hidden_size', 'a multiple of 32, the values of one MXFP4 group')
  if (sizes.intermediateSize % 32 !== 0) {
    read.refuse('intermediate_size', 'a multiple of 32, the values of one MXFP4 group')
  }
}

function readEosTokenIds(read: ConfigReader): readonly number[] | undefined {
  const value = read.value('eos_token_id')
  if (value === undefined) return undefined
  const ids = Array.isArray(value) ? value : [value]
  const isId = (id: JsonValue): id is number => Number.isSafeInteger(id) && (id as number) >= 0
  return ids.every(isId) ? ids : read.refuse('eos_token_id', 'a token id, or a list of them')
}
