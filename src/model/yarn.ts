import type { Rotary } from '../kernels/ops.ts'
import type { ModelConfig } from './config.ts'

/**
 * Rotary frequencies by YaRN's "by parts": fast dimensions keep their frequency, slow ones are divided by the scaling
 * factor, those between are mixed. float64 throughout. Source: arXiv 2309.00071, section 3.2 and 3.4.
 */
export function yarn(config: ModelConfig): Rotary {
  const { headDim, ropeTheta, ropeScalingFactor: factor } = config
  const half = headDim / 2
  const plain = Float64Array.from({ length: half }, (_, i) => ropeTheta ** ((-2 * i) / headDim))
  if (factor <= 1) return { frequencies: plain, concentration: 1 }
  const { low, high } = yarnRange(config)
  const frequencies = plain.map((frequency, i) => {
    const ramp = Math.min(Math.max((i - low) / (high - low), 0), 1)
    return (frequency / factor) * ramp + frequency * (1 - ramp)
  })
  return { frequencies, concentration: yarnConcentration(factor) }
}

/** Between these dimensions of a head frequencies are mixed: those that turn beta and alpha times in the initial context. */
export function yarnRange(
  config: Pick<ModelConfig, 'headDim' | 'initialContextLength' | 'ropeTheta' | 'ropeNtkAlpha' | 'ropeNtkBeta'>,
): { low: number; high: number } {
  const { headDim, initialContextLength, ropeTheta, ropeNtkAlpha, ropeNtkBeta } = config
  const dimension = (rotations: number) =>
    ((headDim / 2) * Math.log(initialContextLength / (rotations * 2 * Math.PI))) / Math.log(ropeTheta)
  return { low: dimension(ropeNtkBeta), high: dimension(ropeNtkAlpha) }
}

/** The factor of cosine and sine, which scales attention logits by its square. */
export function yarnConcentration(factor: number): number {
  return 0.1 * Math.log(factor) + 1
}
