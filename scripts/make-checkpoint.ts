/**
 * Writes a gpt-oss checkpoint with random weights, for timing and for tests. The same seed gives the same weights in both
 * layouts, on every machine.
 *
 *   node scripts/make-checkpoint.ts OUT [--model 20b | 120b] [--config config.json] [--layout openai | huggingface]
 *                                       [--files N] [--layers N] [--seed N]
 *
 * OUT must be empty or new. --config: sizes other than those of the published models, in either spelling. --layers: fewer
 * layers, everything else at full size. --files: split as the published files are, with an index (1: one file without).
 */
import { mkdir, open, readdir, readFile, statfs, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { type JsonObject, parseJson } from '../src/base/json.ts'
import type { Layout } from '../src/checkpoint/names.ts'
import { safetensorsHeader, type TensorDeclaration } from '../src/checkpoint/write.ts'
import { type ModelConfig, readConfig } from '../src/model/config.ts'
import { type ExpectedTensor, expectedTensors } from '../src/model/tensors.ts'
import { RandomWeights } from './random-weights.ts'

export interface CheckpointOptions {
  config: ModelConfig
  layout: Layout
  files: number
  seed: number
  onProgress?: (doneBytes: number, totalBytes: number) => void
}

/** Moved to the disk at once; a piece of weights is far smaller. */
const writeBytes = 8 * 2 ** 20

type PlannedTensor = ExpectedTensor & TensorDeclaration

/** Writes config.json, the weight files and, for several, their index into a new or empty folder. */
export async function makeCheckpoint(folder: string, options: CheckpointOptions): Promise<void> {
  const { config, layout, files, seed, onProgress = () => {} } = options
  const tensors = [...expectedTensors(config, layout)].map(tensor => ({ ...tensor, byteLength: bytesOf(tensor) }))
  const totalBytes = sum(tensors)
  await prepareFolder(folder, totalBytes)
  await writeJson(join(folder, 'config.json'), configJson(config, layout))
  const shards = split(tensors, files)
  const names = shards.map((_, i) => fileName(layout, i, shards.length))
  if (shards.length > 1) {
    const weightMap = Object.fromEntries(shards.flatMap((shard, i) => shard.map(({ name }) => [name, names[i]])))
    const index = { metadata: { total_size: totalBytes }, weight_map: weightMap }
    await writeJson(join(folder, 'model.safetensors.index.json'), index)
  }
  const weights = new RandomWeights(config, seed)
  let done = 0
  for (const [i, shard] of shards.entries()) {
    await writeShard(join(folder, names[i]), shard, weights, bytes => onProgress((done += bytes), totalBytes))
  }
}

async function writeShard(
  path: string,
  tensors: readonly PlannedTensor[],
  weights: RandomWeights,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const file = await open(path, 'wx')
  try {
    await file.writeFile(safetensorsHeader(tensors, { format: 'pt' }))
    const buffer = new Uint8Array(writeBytes)
    let filled = 0
    const flush = async () => {
      await file.writeFile(buffer.subarray(0, filled))
      onBytes(filled)
      filled = 0
    }
    for (const tensor of tensors) {
      for (const piece of weights.bytesOf(tensor)) {
        if (filled + piece.length > writeBytes) await flush()
        buffer.set(piece, filled)
        filled += piece.length
      }
    }
    await flush()
  } finally {
    await file.close()
  }
}

async function prepareFolder(folder: string, bytes: number): Promise<void> {
  await mkdir(folder, { recursive: true })
  const present = await readdir(folder)
  if (present.length > 0) throw new Error(`${folder} is not empty (${present[0]}, …): give a new folder`)
  const { bavail, bsize } = await statfs(folder)
  if (bavail * bsize < bytes) {
    throw new Error(`${folder} has ${gib(bavail * bsize)} GiB free and the checkpoint needs ${gib(bytes)}: make room`)
  }
}

const writeJson = (path: string, value: unknown): Promise<void> =>
  writeFile(path, `${JSON.stringify(value, null, 2)}\n`)
const bytesOf = ({ shape, dataType }: ExpectedTensor): number =>
  shape.reduce((a, b) => a * b, dataType === 'U8' ? 1 : 2)
const sum = (tensors: readonly TensorDeclaration[]): number => tensors.reduce((n, tensor) => n + tensor.byteLength, 0)
const gib = (bytes: number): string => (bytes / 2 ** 30).toFixed(1)

/** At most `count` runs of about the same number of bytes. */
function split(tensors: readonly PlannedTensor[], count: number): PlannedTensor[][] {
  const limit = sum(tensors) / count
  const shards: PlannedTensor[][] = []
  let before = 0
  for (const tensor of tensors) {
    const shard = Math.min(count - 1, Math.floor(before / limit))
    if (shards.length === 0 || (shard >= shards.length && before > 0)) shards.push([])
    shards[shards.length - 1].push(tensor)
    before += tensor.byteLength
  }
  return shards
}

/** As the published files are called: OpenAI's are numbered from 1, Hugging Face's from 0. */
function fileName(layout: Layout, i: number, count: number): string {
  const number = (n: number) => String(n).padStart(5, '0')
  if (count === 1) return 'model.safetensors'
  return layout === 'openai'
    ? `model--${number(i + 1)}-of-${number(count)}.safetensors`
    : `model-${number(i)}-of-${number(count - 1)}.safetensors`
}

/** The configuration as the layout's publisher spells it. */
function configJson(config: ModelConfig, layout: Layout): Record<string, unknown> {
  const shared = {
    num_hidden_layers: config.numHiddenLayers,
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    swiglu_limit: config.swigluLimit,
    head_dim: config.headDim,
    num_attention_heads: config.numAttentionHeads,
    num_key_value_heads: config.numKeyValueHeads,
    sliding_window: config.slidingWindow,
    initial_context_length: config.initialContextLength,
    rope_theta: config.ropeTheta,
    rms_norm_eps: config.rmsNormEpsilon,
    max_position_embeddings: config.maxPositionEmbeddings,
    experts_per_token: config.expertsPerToken,
    eos_token_id: config.eosTokenIds,
  }
  if (layout === 'openai') {
    return {
      ...shared,
      num_experts: config.numExperts,
      rope_scaling_factor: config.ropeScalingFactor,
      rope_ntk_alpha: config.ropeNtkAlpha,
      rope_ntk_beta: config.ropeNtkBeta,
    }
  }
  return {
    ...shared,
    architectures: ['GptOssForCausalLM'],
    model_type: 'gpt_oss',
    num_local_experts: config.numExperts,
    quantization_config: { quant_method: 'mxfp4' },
    rope_scaling: {
      rope_type: 'yarn',
      factor: config.ropeScalingFactor,
      beta_fast: config.ropeNtkBeta,
      beta_slow: config.ropeNtkAlpha,
      original_max_position_embeddings: config.initialContextLength,
      truncate: false,
    },
  }
}

/** The published models, which differ in two numbers. */
export function publishedConfig(model: '20b' | '120b'): ModelConfig {
  const fields = {
    num_hidden_layers: model === '20b' ? 24 : 36,
    num_experts: model === '20b' ? 32 : 128,
    experts_per_token: 4,
    vocab_size: 201088,
    hidden_size: 2880,
    intermediate_size: 2880,
    head_dim: 64,
    num_attention_heads: 64,
    num_key_value_heads: 8,
    sliding_window: 128,
  }
  return readConfig(new Map(Object.entries(fields)), model)
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      model: { type: 'string', default: '20b' },
      config: { type: 'string' },
      layout: { type: 'string', default: 'openai' },
      files: { type: 'string', default: '1' },
      layers: { type: 'string' },
      seed: { type: 'string', default: '1' },
    },
  })
  const { model, layout } = values
  const folder = positionals[0]
  if (folder === undefined) throw new Error('give the folder to write into: node scripts/make-checkpoint.ts OUT')
  if (layout !== 'openai' && layout !== 'huggingface')
    throw new Error(`--layout ${layout} is neither openai nor huggingface`)
  if (model !== '20b' && model !== '120b') throw new Error(`--model ${model} is neither 20b nor 120b`)
  const base = values.config ? await configFrom(values.config) : publishedConfig(model)
  const config = { ...base, numHiddenLayers: whole('layers', values.layers ?? String(base.numHiddenLayers)) }
  const start = performance.now()
  await makeCheckpoint(folder, {
    config,
    layout,
    files: whole('files', values.files),
    seed: whole('seed', values.seed),
    onProgress: showProgress(start),
  })
}

async function configFrom(path: string): Promise<ModelConfig> {
  return readConfig(parseJson(await readFile(path, 'utf8')) as JsonObject, path)
}

function whole(option: string, text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new Error(`--${option} ${text} is not a positive whole number`)
  return Number(text)
}

/** One line that moves on a terminal, one for each tenth elsewhere. */
function showProgress(start: number): (done: number, total: number) => void {
  let shown = -1
  return (done, total) => {
    const steps = process.stderr.isTTY ? 1000 : 10
    const step = Math.floor((done / total) * steps)
    if (step === shown) return
    shown = step
    const seconds = (performance.now() - start) / 1000
    const line = `${gib(done)} of ${gib(total)} GiB, ${(done / seconds / 1e9).toFixed(2)} GB/s, ${seconds.toFixed(0)} s`
    process.stderr.write(process.stderr.isTTY ? `\r${line}   ${done === total ? '\n' : ''}` : `${line}\n`)
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  await main().catch(error => {
    console.error(error.message)
    process.exitCode = 1
  })
}
