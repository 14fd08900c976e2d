import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { openCheckpoint } from '../../src/checkpoint/checkpoint.ts'
import { openFolder } from '../../src/checkpoint/source.node.ts'
import { ReferenceDevice } from '../../src/device/reference.ts'
import type { Device, Ops } from '../../src/kernels/ops.ts'
import type { Tensor } from '../../src/kernels/tensor.ts'
import { readConfig } from '../../src/model/config.ts'
import { checkTensors } from '../../src/model/tensors.ts'
import { type Chunk, Transformer } from '../../src/model/transformer.ts'
import { loadWeights } from '../../src/model/weights.ts'

export const folder = join(import.meta.dirname, '../golden/logits')
export const caseNames = readdirSync(folder, { withFileTypes: true })
  .filter(entry => entry.isDirectory())
  .map(entry => entry.name)
export type Layout = 'original' | 'hf'

/** What OpenAI's code computes on a small checkpoint; README.md beside the goldens describes every tensor. */
export interface Golden {
  prompt: number[]
  positions: number[]
  continuation: number[]
  experts: number[][]
  expert_weights: number[][]
  tensors: Record<string, { shape: number[]; data: Float32Array }>
}

export async function readGolden(name: string): Promise<Golden> {
  const golden = JSON.parse(readFileSync(join(folder, name, 'golden.json'), 'utf8'))
  return { ...golden, tensors: readFloats(readFileSync(join(folder, name, 'golden.safetensors'))) }
}

type Entry = { dtype: string; shape: number[]; data_offsets: [number, number] }

/** A test's own small reader, so that a bug of ours cannot hide in both places. */
function readFloats(file: Buffer): Golden['tensors'] {
  const headerLength = Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerLength))
  const tensors: Golden['tensors'] = {}
  for (const [name, { dtype, shape, data_offsets }] of Object.entries<Entry>(header)) {
    if (dtype !== 'F32') continue
    const [begin, end] = data_offsets
    const bytes = file.subarray(8 + headerLength + begin, 8 + headerLength + end)
    tensors[name] = { shape, data: new Float32Array(Uint8Array.from(bytes).buffer) }
  }
  return tensors
}

export async function openModel(name: string, layout: Layout, device: Device = new ReferenceDevice()) {
  const checkpoint = await openCheckpoint(await openFolder(join(folder, name, layout)))
  const config = readConfig(checkpoint.config, checkpoint.configPath)
  checkTensors(checkpoint, config)
  const weights = await loadWeights(device, checkpoint, config)
  await checkpoint.close()
  return new Transformer(device, config, weights)
}

/** Runs a pass and gives the logits' rows [vocabSize]. */
export async function run(model: Transformer, batch: Chunk[]): Promise<Float32Array[]> {
  const logits = (await model.forward(batch))!
  const { vocabSize } = model.config
  return Array.from({ length: logits.length / vocabSize }, (_, i) => {
    return logits.subarray(i * vocabSize, (i + 1) * vocabSize)
  })
}

/** Logits after each of `tokens`, which are fed in chunks of the given sizes (the last size repeats). */
export async function runChunked(model: Transformer, tokens: number[], sizes: number[]): Promise<Float32Array[]> {
  const cache = model.newCache(Math.max(...sizes))
  const logits: Float32Array[] = []
  for (let at = 0, n = 0; at < tokens.length; n++) {
    const chunk = tokens.slice(at, at + sizes[Math.min(n, sizes.length - 1)])
    logits.push(...(await run(model, [{ cache, tokens: chunk, start: at, logits: 'all' }])))
    at += chunk.length
  }
  cache.dispose()
  return logits
}

export interface Difference {
  maxAbs: number
  /** Σ (got − right)² / Σ right² */
  nmse: number
}

export function difference(got: Float32Array[], right: Float32Array[]): Difference {
  let maxAbs = 0
  let errors = 0
  let squares = 0
  for (const [i, row] of right.entries()) {
    for (let j = 0; j < row.length; j++) {
      const error = got[i][j] - row[j]
      if (!(Math.abs(error) <= maxAbs)) maxAbs = Math.abs(error) // NaN counts
      errors += error * error
      squares += row[j] * row[j]
    }
  }
  return { maxAbs, nmse: errors / squares }
}

export function rowsOf({ shape, data }: { shape: number[]; data: Float32Array }): Float32Array[] {
  const width = shape.at(-1) as number
  return Array.from({ length: data.length / width }, (_, i) => data.subarray(i * width, (i + 1) * width))
}

/** Right logits, and those of ours (after each token of prompt and continuation) that they belong to. */
export function paired(golden: Golden, logits: Float32Array[]): { got: Float32Array[]; right: Float32Array[] } {
  const last = golden.prompt.length - 1
  return {
    got: [
      ...golden.positions.map(position => logits[position]),
      ...golden.continuation.map((_, i) => logits[last + i]),
    ],
    right: [...rowsOf(golden.tensors.logits), ...rowsOf(golden.tensors.continuation_logits)],
  }
}

/** Calls of each op during the passes of a device, with what they returned. */
export type Calls = { op: keyof Ops; args: unknown[]; result: unknown }[]

/** A device that does what another does and records every op. */
export function recording(device: Device): Device & { calls: Calls } {
  const calls: Calls = []
  const record = (ops: Ops): Ops =>
    new Proxy(ops, {
      get(target, op: keyof Ops) {
        return (...args: never[]) => {
          const result = (target[op] as (...args: never[]) => unknown).apply(target, args)
          calls.push({ op, args, result })
          return result
        }
      },
    })
  const begin = device.begin.bind(device)
  return Object.assign(device, { calls, begin: () => record(begin()) })
}

/** The numbers of a tensor on the reference device. */
export const numbers = (tensor: unknown): Float32Array => (tensor as Tensor & { data: Float32Array }).data
