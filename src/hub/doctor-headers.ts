import type { StoredTensor } from '../checkpoint/checkpoint.ts'
import type { ModelConfig } from '../model/config.ts'
import { expectedTensors } from '../model/tensors.ts'

const layout = 'huggingface'

/** What the files of a model with this configuration declare, as if they lay where they can be mapped. */
export function declaredTensors(config: ModelConfig) {
  const tensors = new Map<string, Omit<StoredTensor, 'read' | 'file'>>()
  for (const { name, dataType, shape } of expectedTensors(config, layout)) {
    const byteLength = shape.reduce((a, b) => a * b) * (dataType === 'BF16' ? 2 : 1)
    tensors.set(name, { name, dataType, shape, byteLength, location: { path: 'model.safetensors', begin: 0 } })
  }
  return { layout, tensors } as const
}
