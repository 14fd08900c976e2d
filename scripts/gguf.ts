import { fromBfloat16 } from '../src/base/bfloat16.ts'
import type { ModelConfig } from '../src/model/config.ts'
import type { RandomRows, RandomWeights } from './random-weights.ts'
import { type Section, section } from './resumable-file.ts'

/** Numbers of the types in a GGUF file's tensors. */
const types = { F32: 0, Q8_0: 8, MXFP4: 39 } as const
const blockBytes = { F32: 4 * 32, Q8_0: 2 + 32, MXFP4: 1 + 16 } // of 32 values
const alignment = 32

interface GgufTensor {
  name: string
  type: keyof typeof types
  /** The row's length first. */
  dims: number[]
  fill: Section['fill']
}

/**
 * The same weights as a GGUF file of llama.cpp's `gpt-oss` architecture, in the types that its own conversion of the
 * published model has: experts as they are (MXFP4, gate and up apart), the other matrices Q8_0, everything small F32.
 * Vocabulary and merges are stand-ins: for prompts of token ids.
 */
export function ggufSections(
  config: ModelConfig,
  weights: RandomWeights,
  name: string,
): [header: Section, ...rest: Section[]] {
  checkSizes(config)
  const tensors = ggufTensors(config, weights)
  return [section(header(config, name, tensors)), ...tensors.flatMap(tensorSections)]
}

function checkSizes({ vocabSize, numAttentionHeads, headDim, swigluLimit }: ModelConfig): void {
  const cure = 'write another layout, or take other sizes'
  if ((numAttentionHeads * headDim) % 32 !== 0) {
    throw new Error(`Q8_0 has groups of 32, and attention is ${numAttentionHeads} heads of ${headDim}: ${cure}`)
  }
  if (vocabSize < 512) throw new Error(`a vocabulary of ${vocabSize} has no room for llama.cpp's 256 bytes: ${cure}`)
  if (swigluLimit !== 7) throw new Error(`llama.cpp's SwiGLU is limited at 7, not at ${swigluLimit}: ${cure}`)
}

function ggufTensors(config: ModelConfig, weights: RandomWeights): GgufTensor[] {
  const { vocabSize, hiddenSize, intermediateSize, numExperts, numAttentionHeads, numKeyValueHeads, headDim } = config
  const qSize = numAttentionHeads * headDim
  const kvSize = numKeyValueHeads * headDim
  const q8 = (name: string, rows: RandomRows, width: number, count: number, first = 0): GgufTensor => ({
    name,
    type: 'Q8_0',
    dims: [width, count],
    fill: (row, out) => writeQ8(rows.words(first + row, width), out),
  })
  /** Some of the values of each row: `count` of them, `step` apart. */
  const f32 = (name: string, rows: RandomRows, width: number, dims: number[], first = 0, step = 1): GgufTensor => ({
    name,
    type: 'F32',
    dims,
    fill: (row, out) => writeF32(rows.words(row, width), first, step, out),
  })
  const mxfp4 = (name: string, rows: RandomRows, width: number, count: number, toRow: (row: number) => number) => ({
    name,
    type: 'MXFP4' as const,
    dims: [width, count, numExperts],
    fill: (row: number, out: Uint8Array) => writeMxfp4(rows.groups(toRow(row), width), out),
  })
  const layers = Array.from({ length: config.numHiddenLayers }, (_, n): GgufTensor[] => {
    const name = (tensor: string) => `blk.${n}.${tensor}`
    const [qkv, qkvBias] = [weights.rows('qkv', n), weights.rows('qkvBias', n)]
    const qkvSize = qSize + 2 * kvSize
    const [gateUp, gateUpBias] = [weights.rows('gateUp', n), weights.rows('gateUpBias', n)]
    const inner = intermediateSize
    const expertRow = (row: number, half: 0 | 1) => {
      const expert = Math.floor(row / inner)
      return 2 * (expert * inner + (row % inner)) + half
    }
    return [
      f32(name('attn_norm.weight'), weights.rows('attentionNorm', n), hiddenSize, [hiddenSize]),
      q8(name('attn_q.weight'), qkv, hiddenSize, qSize),
      q8(name('attn_k.weight'), qkv, hiddenSize, kvSize, qSize),
      q8(name('attn_v.weight'), qkv, hiddenSize, kvSize, qSize + kvSize),
      f32(name('attn_q.bias'), qkvBias, qkvSize, [qSize]),
      f32(name('attn_k.bias'), qkvBias, qkvSize, [kvSize], qSize),
      f32(name('attn_v.bias'), qkvBias, qkvSize, [kvSize], qSize + kvSize),
      q8(name('attn_output.weight'), weights.rows('out', n), qSize, hiddenSize),
      f32(name('attn_output.bias'), weights.rows('outBias', n), hiddenSize, [hiddenSize]),
      f32(name('attn_sinks.weight'), weights.rows('sinks', n), numAttentionHeads, [numAttentionHeads]),
      f32(name('post_attention_norm.weight'), weights.rows('mlpNorm', n), hiddenSize, [hiddenSize]),
      f32(name('ffn_gate_inp.weight'), weights.rows('router', n), hiddenSize, [hiddenSize, numExperts]),
      f32(name('ffn_gate_inp.bias'), weights.rows('routerBias', n), numExperts, [numExperts]),
      mxfp4(name('ffn_gate_exps.weight'), gateUp, hiddenSize, inner, row => expertRow(row, 0)),
      mxfp4(name('ffn_up_exps.weight'), gateUp, hiddenSize, inner, row => expertRow(row, 1)),
      mxfp4(name('ffn_down_exps.weight'), weights.rows('down', n), inner, hiddenSize, row => row),
      f32(name('ffn_gate_exps.bias'), gateUpBias, 2 * inner, [inner, numExperts], 0, 2),
      f32(name('ffn_up_exps.bias'), gateUpBias, 2 * inner, [inner, numExperts], 1, 2),
      f32(name('ffn_down_exps.bias'), weights.rows('downBias', n), hiddenSize, [hiddenSize, numExperts]),
    ]
  })
  return [
    q8('token_embd.weight', weights.rows('embedding', -1), hiddenSize, vocabSize),
    ...layers.flat(),
    f32('output_norm.weight', weights.rows('norm', -1), hiddenSize, [hiddenSize]),
    q8('output.weight', weights.rows('unembedding', -1), hiddenSize, vocabSize),
  ]
}

const rowBytes = ({ type, dims }: GgufTensor): number => (dims[0] / 32) * blockBytes[type]
const numRows = ({ dims }: GgufTensor): number => dims.slice(1).reduce((a, b) => a * b, 1)
const padding = (bytes: number): number => Math.ceil(bytes / alignment) * alignment - bytes

/** A tensor, and zeros up to where the next may begin. */
function tensorSections(tensor: GgufTensor): Section[] {
  const rows = { rows: numRows(tensor), rowBytes: rowBytes(tensor), fill: tensor.fill }
  const pad = padding(rows.rows * rows.rowBytes)
  return pad > 0 ? [rows, section(new Uint8Array(pad))] : [rows]
}

// --- rows ---

function writeF32(words: Uint16Array, first: number, step: number, out: Uint8Array): void {
  const view = new DataView(out.buffer, out.byteOffset, out.byteLength)
  for (let at = 0, i = first; at < out.length; at += 4, i += step) view.setUint32(at, words[i] << 16, true)
}

/** Per 32 values: 1/127 of the largest magnitude as float16, then each value as a multiple of it in int8. */
function writeQ8(words: Uint16Array, out: Uint8Array): void {
  const values = new Float32Array(32)
  for (let at = 0, i = 0; i < words.length; at += 34, i += 32) {
    let largest = 0
    for (let j = 0; j < 32; j++) {
      values[j] = fromBfloat16(words[i + j])
      largest = Math.max(largest, Math.abs(values[j]))
    }
    const scale = Math.fround(largest / 127)
    const half = toFloat16(scale)
    out[at] = half & 255
    out[at + 1] = half >> 8
    const inverse = scale === 0 ? 0 : 1 / scale
    for (let j = 0; j < 32; j++) out[at + 2 + j] = Math.round(values[j] * inverse)
  }
}

/** Per 32 values: the scale, then value j beside value j + 16 in one byte. */
function writeMxfp4({ blocks, scales }: { blocks: Uint8Array; scales: Uint8Array }, out: Uint8Array): void {
  for (let group = 0; group < scales.length; group++) {
    const [from, to] = [group * 16, group * 17]
    out[to] = scales[group]
    for (let i = 0; i < 8; i++) {
      const [low, high] = [blocks[from + i], blocks[from + 8 + i]]
      out[to + 1 + 2 * i] = (low & 15) | ((high & 15) << 4)
      out[to + 2 + 2 * i] = (low >> 4) | (high & 0xf0)
    }
  }
}

/** The bits of the nearest float16, for numbers that are not negative, not too large, and no ties. */
export function toFloat16(value: number): number {
  if (value === 0) return 0
  const exponent = Math.max(-14, Math.floor(Math.log2(value)))
  // A mantissa that rounds up to 2 carries into the exponent by itself.
  return ((exponent + 14) << 10) + Math.round((value / 2 ** exponent) * 1024)
}

// --- header ---

type Value =
  | readonly ['u32' | 'f32', number]
  | readonly ['string', string]
  | readonly ['strings', readonly string[]]
  | readonly ['i32s', readonly number[]]

function header(config: ModelConfig, name: string, tensors: readonly GgufTensor[]): Uint8Array {
  const out = new Writer()
  const fields = Object.entries(metadata(config, name))
  out.text('GGUF')
  out.u32(3)
  out.u64(tensors.length)
  out.u64(fields.length)
  for (const [key, value] of fields) {
    out.string(key)
    out.value(value)
  }
  let offset = 0
  for (const tensor of tensors) {
    out.string(tensor.name)
    out.u32(tensor.dims.length)
    for (const size of tensor.dims) out.u64(size)
    out.u32(types[tensor.type])
    out.u64(offset)
    const bytes = numRows(tensor) * rowBytes(tensor)
    offset += bytes + padding(bytes)
  }
  return out.finish()
}

function metadata(config: ModelConfig, name: string): Record<string, Value> {
  const { tokens, kinds, first, last, pad } = standInVocabulary(config.vocabSize)
  const scaled = config.ropeScalingFactor > 1
  const rope: Record<string, Value> = {
    'gpt-oss.rope.freq_base': ['f32', config.ropeTheta],
    'gpt-oss.rope.scaling.type': ['string', scaled ? 'yarn' : 'none'],
  }
  if (scaled) {
    rope['gpt-oss.rope.scaling.factor'] = ['f32', config.ropeScalingFactor]
    rope['gpt-oss.rope.scaling.original_context_length'] = ['u32', config.initialContextLength]
    rope['gpt-oss.rope.scaling.yarn_beta_fast'] = ['f32', config.ropeNtkBeta]
    rope['gpt-oss.rope.scaling.yarn_beta_slow'] = ['f32', config.ropeNtkAlpha]
  }
  return {
    'general.architecture': ['string', 'gpt-oss'],
    'general.name': ['string', name],
    'general.quantization_version': ['u32', 2],
    'general.file_type': ['u32', 38], // mostly MXFP4
    'general.alignment': ['u32', alignment],
    'gpt-oss.block_count': ['u32', config.numHiddenLayers],
    'gpt-oss.context_length': ['u32', config.maxPositionEmbeddings],
    'gpt-oss.embedding_length': ['u32', config.hiddenSize],
    'gpt-oss.feed_forward_length': ['u32', config.intermediateSize],
    'gpt-oss.expert_feed_forward_length': ['u32', config.intermediateSize],
    'gpt-oss.expert_count': ['u32', config.numExperts],
    'gpt-oss.expert_used_count': ['u32', config.expertsPerToken],
    'gpt-oss.attention.head_count': ['u32', config.numAttentionHeads],
    'gpt-oss.attention.head_count_kv': ['u32', config.numKeyValueHeads],
    'gpt-oss.attention.key_length': ['u32', config.headDim],
    'gpt-oss.attention.value_length': ['u32', config.headDim],
    'gpt-oss.attention.sliding_window': ['u32', config.slidingWindow],
    'gpt-oss.attention.layer_norm_rms_epsilon': ['f32', config.rmsNormEpsilon],
    ...rope,
    'tokenizer.ggml.model': ['string', 'gpt2'],
    'tokenizer.ggml.pre': ['string', 'gpt-4o'],
    'tokenizer.ggml.tokens': ['strings', tokens],
    'tokenizer.ggml.token_type': ['i32s', kinds],
    'tokenizer.ggml.merges': ['strings', [tokens[256].split('').join(' ')]],
    'tokenizer.ggml.bos_token_id': ['u32', first],
    'tokenizer.ggml.eos_token_id': ['u32', last],
    'tokenizer.ggml.padding_token_id': ['u32', pad],
  }
}

const controlTokens: Record<number, string> = {
  199998: '<|startoftext|>',
  199999: '<|endoftext|>',
  200002: '<|return|>',
  200003: '<|constrain|>',
  200005: '<|channel|>',
  200006: '<|start|>',
  200007: '<|end|>',
  200008: '<|message|>',
  200012: '<|call|>',
}

/** 256 bytes in GPT-2's spelling, one merge, numbered words, and o200k_harmony's control tokens where they lie. */
function standInVocabulary(vocabSize: number) {
  const isPlain = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174
  let extra = 256
  const bytes = Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPlain(byte) ? byte : extra++))
  const space = bytes[32]
  const full = vocabSize > 200012
  const control = full
    ? controlTokens
    : { [vocabSize - 3]: '<|startoftext|>', [vocabSize - 2]: '<|endoftext|>', [vocabSize - 1]: '<|return|>' }
  const firstControl = full ? 199998 : vocabSize - 3
  const token = (id: number): string => {
    if (id >= firstControl) return control[id] ?? `<|reserved_${id}|>`
    if (id > 256) return `${space}w${id}`
    return id === 256 ? `${space}t` : bytes[id]
  }
  const ids = Array.from({ length: vocabSize }, (_, id) => id)
  const [normalKind, controlKind] = [1, 3]
  return {
    tokens: ids.map(token),
    kinds: ids.map(id => (id >= firstControl ? controlKind : normalKind)),
    first: firstControl,
    pad: firstControl + 1,
    last: full ? 200002 : vocabSize - 1,
  }
}

/** Little-endian fields, one after the other. */
class Writer {
  readonly #parts: Uint8Array[] = []
  readonly #encoder = new TextEncoder()

  text(text: string): void {
    this.#parts.push(this.#encoder.encode(text))
  }
  u32(value: number): void {
    this.#parts.push(new Uint8Array(Uint32Array.of(value).buffer))
  }
  u64(value: number): void {
    this.#parts.push(new Uint8Array(BigUint64Array.of(BigInt(value)).buffer))
  }
  f32(value: number): void {
    this.#parts.push(new Uint8Array(Float32Array.of(value).buffer))
  }
  string(text: string): void {
    const bytes = this.#encoder.encode(text)
    this.u64(bytes.length)
    this.#parts.push(bytes)
  }

  value([kind, value]: Value): void {
    const numbers = { u32: 4, i32: 5, f32: 6, string: 8, array: 9 } // of the types of fields
    const array = (of: number, length: number) => {
      this.u32(numbers.array)
      this.u32(of)
      this.u64(length)
    }
    switch (kind) {
      case 'u32':
      case 'f32':
        this.u32(numbers[kind])
        this[kind](value)
        break
      case 'string':
        this.u32(numbers.string)
        this.string(value)
        break
      case 'strings':
        array(numbers.string, value.length)
        for (const text of value) this.string(text)
        break
      case 'i32s':
        array(numbers.i32, value.length)
        this.#parts.push(new Uint8Array(Int32Array.from(value).buffer))
        break
      default:
        kind satisfies never
    }
  }

  /** Everything, filled up to where tensors may begin. */
  finish(): Uint8Array {
    const bytes = Buffer.concat(this.#parts)
    return Buffer.concat([bytes, new Uint8Array(padding(bytes.length))])
  }
}
