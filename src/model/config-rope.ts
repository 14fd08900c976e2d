import { CheckpointError } from '../base/errors.ts'
import type { ModelConfig } from './config.ts'
import type { ConfigReader } from './config-reader.ts'
import { yarnConcentration, yarnRange } from './yarn.ts'

type Rope = Pick<
  ModelConfig,
  'initialContextLength' | 'ropeTheta' | 'ropeScalingFactor' | 'ropeNtkAlpha' | 'ropeNtkBeta' | 'maxPositionEmbeddings'
>

/**
 * The rotary numbers in any of their spellings: OpenAI's flat fields, transformers 4's `rope_scaling`, transformers 5's
 * `rope_parameters`. Where all are missing it is YaRN with factor 32, as transformers has it.
 */
export function readRope(read: ConfigReader, headDim: number): Rope {
  const object = read.object('rope_parameters') ?? read.object('rope_scaling')
  const rope = object ? readObject(read, object) : readFlat(read)
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
    maxPositionEmbeddings: readContext(read, initialContextLength, ropeScalingFactor),
  }
}

function readObject(read: ConfigReader, rope: ConfigReader): Rope {
  const field = rope.value('rope_type') === undefined && rope.value('type') !== undefined ? 'type' : 'rope_type'
  const type = rope.value(field)
  const plain = type === 'default'
  if (type !== 'yarn' && !plain) rope.refuse(field, '"yarn"', 'tutti runs gpt-oss-20b and gpt-oss-120b')
  const ropeScalingFactor = plain ? 1 : rope.positive('factor')
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
    maxPositionEmbeddings: readContext(read, initialContextLength, ropeScalingFactor),
  }
}

/** A config may write the factor of cosine and sine out; it must be YaRN's own. */
function checkConcentration(rope: ConfigReader, factor: number): void {
  const given = rope.value('attention_factor')
  if (given === undefined) return
  const expected = factor > 1 ? yarnConcentration(factor) : 1
  const matches = typeof given === 'number' && Math.abs(given - expected) < 1e-6 // decimals that someone rounded
  if (!matches) rope.refuse('attention_factor', `${expected}, which follows from the factor ${factor}`)
}

/** Some versions of transformers take the factor from this quotient, so a config in which they differ has two meanings. */
function readContext(read: ConfigReader, initialContextLength: number, factor: number): number {
  const expected = Math.floor(initialContextLength * Math.max(1, factor))
  const given = read.optionalSize('max_position_embeddings') ?? expected
  if (given === expected || factor <= 1) return given
  return read.refuse(
    'max_position_embeddings',
    `${expected}, the initial context ${initialContextLength} times the scaling factor ${factor}`,
    'put that number there; a shorter context is chosen when a model is opened',
  )
}

/** YaRN mixes frequencies between these dimensions; OpenAI's reference asks the same of them. */
function checkRange(read: ConfigReader, rope: Rope, headDim: number): void {
  const { low, high } = yarnRange({ ...rope, headDim })
  if (0 < low && low < high && high < headDim / 2 - 1) return
  const { initialContextLength, ropeTheta, ropeNtkAlpha, ropeNtkBeta } = rope
  const given = `theta ${ropeTheta}, initial context ${initialContextLength}, alpha ${ropeNtkAlpha}, beta ${ropeNtkBeta}`
  throw new CheckpointError(
    `${read.path} has YaRN numbers (${given}) whose ramp runs from ${low.toFixed(2)} to ${high.toFixed(2)}, ` +
      `expected 0 < low < high < ${headDim / 2 - 1}: check the file, or download it again`,
  )
}
