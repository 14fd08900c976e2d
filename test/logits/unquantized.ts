import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { encodeBfloat16 } from '../../src/base/bfloat16.ts'
import { openCheckpoint } from '../../src/checkpoint/checkpoint.ts'
import { decodeMxfp4 } from '../../src/checkpoint/mxfp4.ts'
import { openFolder } from '../../src/checkpoint/source.node.ts'
import { safetensorsHeader, type TensorDeclaration } from '../../src/checkpoint/write.ts'

export interface SavedTensor extends TensorDeclaration {
  bytes: Uint8Array
}

/**
 * A checkpoint of Hugging Face's layout as transformers saves it where it dequantised the experts: [experts, inputs,
 * outputs]. `change` may alter each tensor. Two shards with an index, as large models have them.
 */
export async function saveUnquantized(
  from: string,
  to: string,
  change: (tensor: SavedTensor) => SavedTensor = tensor => tensor,
): Promise<void> {
  const checkpoint = await openCheckpoint(await openFolder(from))
  const tensors: SavedTensor[] = []
  for (const { name, dataType, shape, read } of checkpoint.tensors.values()) {
    const bytes = await read()
    if (name.endsWith('_scales')) continue
    if (name.endsWith('_blocks')) {
      const scales = await checkpoint.tensors.get(name.replace(/_blocks$/, '_scales'))!.read()
      const [experts, outputs, groups] = shape
      const values = transpose(decodeMxfp4(bytes, scales), [experts, outputs, groups * 32])
      const unpacked = { dataType: 'BF16', shape: [experts, groups * 32, outputs], byteLength: 2 * values.length }
      const saved = new Uint8Array(encodeBfloat16(values).buffer)
      tensors.push(change({ name: name.replace(/_blocks$/, ''), ...unpacked, bytes: saved }))
    } else {
      tensors.push(change({ name, dataType, shape, byteLength: bytes.length, bytes }))
    }
  }
  await checkpoint.close()
  await mkdir(to, { recursive: true })
  const config = Object.fromEntries(checkpoint.config)
  delete config.quantization_config
  await writeFile(
    join(to, 'config.json'),
    JSON.stringify(config, (_, value) => (value instanceof Map ? Object.fromEntries(value) : value)),
  )
  const half = Math.ceil(tensors.length / 2)
  const shards = {
    'model-00001-of-00002.safetensors': tensors.slice(0, half),
    'model-00002-of-00002.safetensors': tensors.slice(half),
  }
  const weightMap: Record<string, string> = {}
  for (const [file, held] of Object.entries(shards)) {
    await writeFile(
      join(to, file),
      Buffer.concat([safetensorsHeader(held, { format: 'pt' }), ...held.map(({ bytes }) => bytes)]),
    )
    for (const { name } of held) weightMap[name] = file
  }
  const total_size = tensors.reduce((sum, { byteLength }) => sum + byteLength, 0)
  await writeFile(
    join(to, 'model.safetensors.index.json'),
    JSON.stringify({ metadata: { total_size }, weight_map: weightMap }),
  )
}

function transpose(values: Float32Array, [matrices, rows, columns]: readonly number[]): Float32Array {
  const out = new Float32Array(values.length)
  for (let matrix = 0; matrix < matrices; matrix++) {
    const first = matrix * rows * columns
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        out[first + column * rows + row] = values[first + row * columns + column]
      }
    }
  }
  return out
}
