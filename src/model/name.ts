import type { ModelConfig } from './config.ts'

/** What a model of these sizes is called; `gpt-oss` where it is none that is known. */
export function modelName({ numHiddenLayers, numExperts, hiddenSize }: ModelConfig): string {
  const sizes = `${numHiddenLayers} layers, ${numExperts} experts, ${hiddenSize} wide`
  return known.get(sizes) ?? 'gpt-oss'
}

const known = new Map([
  ['24 layers, 32 experts, 2880 wide', 'gpt-oss-20b'],
  ['36 layers, 128 experts, 2880 wide', 'gpt-oss-120b'],
  ['6 layers, 8 experts, 96 wide', 'gpt-oss-nano'],
])
