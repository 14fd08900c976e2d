/**
 * Writes a gpt-oss checkpoint with random weights, for timing and for tests: in OpenAI's layout, in Hugging Face's, or as
 * a GGUF file for a peer. The same seed gives the same weights in each of them, on every machine.
 *
 *   node --conditions=tutti-source scripts/make-checkpoint.ts OUT [--model 20b | 120b] [--config config.json] [--seed N]
 *        [--layers N] [--layout openai | huggingface | gguf] [--files N] [--check [--tokens N] [--device NAME]]
 *
 * OUT is a folder, or a file that ends in .gguf. --config: sizes other than those of the published models, in either
 * spelling. --layers: fewer layers, everything else at full size. --files: split as the published files are, with an
 * index (1: one file without). --check: runs random tokens (512, where nothing else is said) through the folder at the
 * end and prints how they spread over the experts. The same command goes on where it was interrupted.
 */
import { mkdir, readdir, readFile, statfs } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { type JsonObject, parseJson } from '../src/base/json.ts'
import { type Layout, layerOf } from '../src/checkpoint/names.ts'
import { safetensorsHeader, type TensorDeclaration } from '../src/checkpoint/write.ts'
import { openDevice } from '../src/device/open.node.ts'
import { type ModelConfig, readConfig } from '../src/model/config.ts'
import { publishedConfig } from '../src/model/published.ts'
import { type ExpectedTensor, expectedTensors } from '../src/model/tensors.ts'
import { behaves, checkWeights, report } from './check-weights.ts'
import { ggufSections } from './gguf.ts'
import { type RandomPart, RandomWeights } from './random-weights.ts'
import {
  byteLength,
  Interrupted,
  type PlannedFile,
  presentBytes,
  type Section,
  section,
  writePlanned,
} from './resumable-file.ts'

export interface CheckpointOptions {
  config: ModelConfig
  seed: number
  /** `gguf`: one file instead of a folder, with the same weights. */
  layout: Layout | 'gguf'
  /** Files that safetensors are split into; 1 by default. */
  files?: number
  /** Bytes of `totalBytes` are there; the first call tells what an earlier run left. */
  onProgress?: (doneBytes: number, totalBytes: number) => void
  signal?: AbortSignal
}

type PlannedTensor = ExpectedTensor & TensorDeclaration

/**
 * Writes a folder with config.json, the weight files and, for several, their index; or a GGUF file. What an interrupted
 * run with the same options left is continued, what is whole is left alone. Throws before anything is written where the
 * disk has too little room, or the place holds something else.
 */
export async function makeCheckpoint(path: string, options: CheckpointOptions): Promise<void> {
  const { config, layout, seed, onProgress = () => {}, signal } = options
  const weights = new RandomWeights(config, seed)
  const { weightFiles, jsonFiles } =
    layout === 'gguf'
      ? { weightFiles: [{ path, sections: ggufSections(config, weights, title(seed)) }], jsonFiles: [] }
      : planSafetensors(path, config, layout, weights, seed, options.files ?? 1)
  await mkdir(layout === 'gguf' ? dirname(path) : path, { recursive: true })
  for (const file of jsonFiles) await presentBytes(file)
  if (layout !== 'gguf') await refuseOthers(path, [...weightFiles, ...jsonFiles])
  const total = weightFiles.reduce((sum, file) => sum + byteLength(file), 0)
  let done = 0
  for (const file of weightFiles) done += await presentBytes(file)
  await checkRoom(path, total - done)
  onProgress(done, total)
  for (const file of weightFiles) await writePlanned(file, bytes => onProgress((done += bytes), total), signal)
  for (const file of jsonFiles) await writePlanned(file, () => {})
}

/** The weight files, and the JSON files that make a folder of them a checkpoint: those come last. */
function planSafetensors(
  folder: string,
  config: ModelConfig,
  layout: Layout,
  weights: RandomWeights,
  seed: number,
  files: number,
): { weightFiles: PlannedFile[]; jsonFiles: PlannedFile[] } {
  const tensors = [...expectedTensors(config, layout)].map(tensor => ({ ...tensor, byteLength: bytesOf(tensor) }))
  const sectionOf = sectionsOf(weights)
  const shards = split(tensors, files)
  const names = shards.map((_, i) => fileName(layout, i, shards.length))
  const weightFiles = shards.map((shard, i): PlannedFile => {
    const header = safetensorsHeader(shard, { format: 'pt', title: title(seed) })
    return { path: join(folder, names[i]), sections: [section(header), ...shard.map(sectionOf)] }
  })
  const jsonFiles = [jsonFile(join(folder, 'config.json'), configJson(config, layout))]
  if (shards.length > 1) {
    const weightMap = Object.fromEntries(shards.flatMap((shard, i) => shard.map(({ name }) => [name, names[i]])))
    const index = { metadata: { total_size: sum(tensors) }, weight_map: weightMap }
    jsonFiles.unshift(jsonFile(join(folder, 'model.safetensors.index.json'), index))
  }
  return { weightFiles, jsonFiles }
}

/** In every file's header: it tells the weights of one seed from those of another, and random ones from real ones. */
const title = (seed: number): string => `random weights of tutti's make-checkpoint, version 2, seed ${seed}`

function jsonFile(path: string, value: unknown): PlannedFile {
  return { path, sections: [section(new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`))] }
}

/** Gives each tensor its rows of the part that it belongs to: q, k and v of Hugging Face's follow each other in one. */
function sectionsOf(weights: RandomWeights): (tensor: ExpectedTensor) => Section {
  const given = new Map<string, number>()
  return ({ name, part, shape, dataType }) => {
    const layer = layerOf(name) ?? -1
    const of = part.replace(/Blocks$|Scales$/, '') as RandomPart
    const rows = weights.rows(of, layer)
    const isVector = shape.length === 1
    const first = given.get(`${layer} ${part}`) ?? 0
    given.set(`${layer} ${part}`, first + shape[0])
    if (dataType === 'U8') {
      const kind = part.endsWith('Blocks') ? 'blocks' : 'scales'
      const groups = shape[2]
      return {
        rows: shape[0] * shape[1],
        rowBytes: groups * (kind === 'blocks' ? 16 : 1),
        fill: (row, out) => out.set(rows.groups(row, groups * 32)[kind]),
      }
    }
    const width = shape[shape.length - 1]
    return {
      rows: isVector ? 1 : shape[0],
      rowBytes: 2 * width,
      // A vector's place is within the one row of its part.
      fill: (row, out) => {
        const words = isVector ? rows.words(0, first + width).subarray(first) : rows.words(first + row, width)
        out.set(new Uint8Array(words.buffer, words.byteOffset, words.byteLength))
      },
    }
  }
}

/** A folder with other weights beside ours would be no checkpoint. */
async function refuseOthers(folder: string, files: readonly PlannedFile[]): Promise<void> {
  const ours = files.flatMap(({ path }) => [basename(path), basename(`${path}.partial`)])
  const others = (await readdir(folder)).filter(name => !ours.includes(name))
  if (others.length > 0) throw new Error(`${folder} holds other files (${others[0]}, …): give a new folder`)
}

async function checkRoom(path: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(dirname(path))
  if (bavail * bsize >= bytes) return
  throw new Error(`${path} still needs ${gib(bytes)} GiB and its disk has ${gib(bavail * bsize)} free: make room`)
}

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

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      model: { type: 'string', default: '20b' },
      config: { type: 'string' },
      layout: { type: 'string' },
      files: { type: 'string', default: '1' },
      layers: { type: 'string' },
      seed: { type: 'string', default: '1' },
      check: { type: 'boolean', default: false },
      tokens: { type: 'string', default: '512' },
      device: { type: 'string' },
    },
  })
  const path = positionals[0]
  if (path === undefined) throw new Error('give the folder or .gguf file to write: scripts/make-checkpoint.ts OUT')
  const layout = chosenLayout(path, values.layout)
  const { model } = values
  if (model !== '20b' && model !== '120b') throw new Error(`--model ${model} is neither 20b nor 120b`)
  const base = values.config ? await configFrom(values.config) : publishedConfig(model)
  const config = { ...base, numHiddenLayers: whole('layers', values.layers ?? String(base.numHiddenLayers)) }
  const seed = whole('seed', values.seed)
  const tokens = whole('tokens', values.tokens)
  if (values.check && layout === 'gguf') throw new Error('--check runs a folder: check the same seed in another layout')
  const stop = new AbortController()
  process.once('SIGINT', () => stop.abort())
  await makeCheckpoint(path, {
    config,
    layout,
    files: whole('files', values.files),
    seed,
    onProgress: progress(),
    signal: stop.signal,
  })
  if (!values.check) return
  const { device } = openDevice({ device: chosenDevice(values.device) })
  const onTerminal = (text: string) => void (process.stderr.isTTY && process.stderr.write(`\r\x1b[K${text}`))
  const figures = await checkWeights(path, tokens, seed, device, onTerminal)
  onTerminal('')
  console.log(report(figures))
  if (!behaves(figures)) process.exitCode = 1
}

function chosenLayout(path: string, given: string | undefined): Layout | 'gguf' {
  const isFile = path.endsWith('.gguf')
  const layout = given ?? (isFile ? 'gguf' : 'openai')
  if (layout !== 'openai' && layout !== 'huggingface' && layout !== 'gguf') {
    throw new Error(`--layout ${layout} is none of openai, huggingface, gguf`)
  }
  if (isFile === (layout === 'gguf')) return layout
  throw new Error(`${path} is to be ${layout}: a GGUF file's name ends in .gguf, a folder's does not`)
}

function chosenDevice(name: string | undefined): 'cpu' | 'reference' | undefined {
  if (name === undefined || name === 'cpu' || name === 'reference') return name
  throw new Error(`--device ${name} is neither cpu nor reference`)
}

async function configFrom(path: string): Promise<ModelConfig> {
  return readConfig(parseJson(await readFile(path, 'utf8')) as JsonObject, path)
}

function whole(option: string, text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new Error(`--${option} ${text} is not a positive whole number`)
  return Number(text)
}

/** One line that moves on a terminal, one for each tenth elsewhere. */
function progress(): (done: number, total: number) => void {
  let shown = -1
  let first: { done: number; time: number } | undefined
  return (done, total) => {
    first ??= { done, time: performance.now() }
    const step = Math.floor((done / total) * (process.stderr.isTTY ? 1000 : 10))
    if (step === shown) return
    shown = step
    const rate = (done - first.done) / (performance.now() - first.time) || Infinity // bytes a ms
    const left = done < total && rate < Infinity ? `, ${Math.ceil((total - done) / rate / 1000)} s left` : ''
    const line = `${gib(done)} of ${gib(total)} GiB${left}`
    process.stderr.write(process.stderr.isTTY ? `\r\x1b[K${line}${done === total ? '\n' : ''}` : `${line}\n`)
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  await main().catch(error => {
    console.error(error instanceof Interrupted && process.stderr.isTTY ? `\n${error.message}` : error.message)
    process.exitCode = error instanceof Interrupted ? 130 : 1
  })
}
