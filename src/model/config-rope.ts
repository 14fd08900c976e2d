import type { ModelConfig } from './config.ts'
import type { ConfigReader } from './config-reader.ts'
import { yarnRange } from './yarn.ts'

type Rope = Pick<
  ModelConfig,
  | 'initialContextLength'
  | 'ropeTheta'
  | 'ropeScalingFactor'
  | 'ropeNtkAlpha'
  | 'ropeNtkBeta'
  | 'maxPositionEmbeddings'
>

/**
 * The rotary numbers in any of their spellings: OpenAI's flat fields, transformers 4's `rope_scaling`, transformers 5's
 * `rope_parameters`. Where all are missing it is YaRN with factor 32, as transformers has it.
 */
export function readRope(read: ConfigReader, headDim: number): Rope {
  const object = read.object('rope_parameters') ?? read.object('rope_scaling')
  const rope = object ? readObject(read, object) : readFlat(read)
  checkContext(read, rope)
  if (rope.ropeScalingFactor > 1) checkRange(read, rope, headDim)
  return rope
}

function readFlat(read: ConfigReader): Rope {
  const initialContextLength = read.optionalSize('initial_context_length') ?? 4096
  const ropeScalingFactor = read.positive('rope_scaling_factor', 32)
  return {
    initialContextLength,
    ropeTheta: read.positive('rope_theta', 150000),
    ropeScalingFactor,
    ropeNtkAlpha: read.positive('rope_ntk_alpha', 1),
    ropeNtkBeta: read.positive('rope_ntk_beta', 32),
    maxPositionEmbeddings: read.optionalSize('max_position_embeddings') ?? initialContextLength * ropeScalingFactor,
  }
}

function readObject(read: ConfigReader, rope: ConfigReader): Rope {
  const type = rope.value('rope_type') ?? rope.value('type')
  const plain = type === 'default'
  if (type !== 'yarn' && !plain) rope.refuse(rope.value('rope_type') === undefined ? 'type' : 'rope_type', '"yarn"')
  const ropeScalingFactor = plain ? 1 : rope.positive('factor', Number.NaN)
  // transformers takes a missing truncate as true, which moves logits by up to 8: it must be said.
  if (!plain && rope.value('truncate') !== false) rope.refuse('truncate', 'false, as gpt-oss was trained')
  for (const field of ['mscale', 'mscale_all_dim', 'partial_rotary_factor']) rope.fixed(field, 1)
  checkConcentration(rope, ropeScalingFactor)
  const initialContextLength =
    rope.optionalSize('original_max_position_embeddings') ?? read.optionalSize('initial_context_length') ?? 4096
  const ropeTheta = rope.value('rope_theta') === undefined ? read : rope
  return {
    initialContextLength,
    ropeTheta: ropeTheta.positive('rope_theta', 150000),
    ropeScalingFactor,
    ropeNtkAlpha: rope.positive('beta_slow', 1),
    ropeNtkBeta: rope.positive('beta_fast', 32),
    maxPositionEmbeddings: read.optionalSize('max_position_embeddings') ?? initialContextLength * ropeScalingFactor,
  }
}

/** A config may write the factor of cosine and sine out; it must be YaRN's own. */
function checkConcentration(rope: ConfigReader, factor: number): void {
  const given = rope.value('attention_factor')
  if (given === undefined) return
  const expected = factor > 1 ? 0.1 * Math.log(factor) + 1 : 1
  const matches = typeof given === 'number' && Math.abs(given - expected) < 1e-6 // decimals that someone rounded
  if (!matches) rope.refuse('attention_factor', `${expected}, which follows from the factor ${factor}`)
}

/** Some versions of transformers take the factor from this quotient, so a config in which they differ has two meanings. */
function checkContext(read: ConfigReader, rope: Rope): void {
  const { maxPositionEmbeddings, initialContextLength, ropeScalingFactor } = rope
  const expected = initialContextLength * ropeScalingFactor
  if (maxPositionEmbeddings === expected || ropeScalingFactor <= 1) return
  read.refuse(
    'max_position_embeddings',
    `${expected}, the initial context ${initialContextLength} times the scaling factor ${ropeScalingFactor}`,
    'put that number there; a shorter context is chosen when a model is opened',
  )
}

/** YaRN mixes frequencies between these dimensions; OpenAI's reference asks the same of them. */
function checkRange(read: ConfigReader, rope: Rope, headDim: number): void {
  const { low, high } = yarnRange({ ...rope, headDim })
  const last = headDim / 2 - 1
  if (0 < low && low < high && high < last) return
  read.refuse(
    'rope_theta',
    `one with which YaRN's ramp lies inside the head, 0 < low < high < ${last}, not low ${low.toFixed(3)}, high ${high.toFixed(3)} ` +
      `(initial context ${rope.initialContextLength}, alpha ${rope.ropeNtkAlpha}, beta ${rope.ropeNtkBeta})`,
  )
}
