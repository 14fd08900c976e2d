import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { type Checkpoint, openCheckpoint } from '../checkpoint/checkpoint.ts'
import type { Layout } from '../checkpoint/names.ts'
import { openFolder } from '../checkpoint/source.node.ts'
import { memoryFolder } from '../checkpoint/source.ts'
import { type ModelConfig, readConfig } from './config.ts'
import { checkTensors, expectedTensors } from './tensors.ts'

const small: ModelConfig = {
  numHiddenLayers: 2,
  numExperts: 4,
  expertsPerToken: 2,
  vocabSize: 16,
  hiddenSize: 64,
  intermediateSize: 32,
  headDim: 8,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  slidingWindow: 4,
  initialContextLength: 4096,
  ropeTheta: 150000,
  ropeScalingFactor: 32,
  ropeNtkAlpha: 1,
  ropeNtkBeta: 32,
  swigluLimit: 7,
  rmsNormEpsilon: 1e-5,
  maxPositionEmbeddings: 131072,
}
const sized = (layers: number, experts: number): ModelConfig => ({
  ...small,
  numHiddenLayers: layers,
  numExperts: experts,
})

type Declared = Record<string, { dataType: string; shape: readonly number[] }>

/** A checkpoint that declares these tensors and has no bytes. */
function declare(layout: Layout, declared: Declared): Checkpoint {
  const tensors = Object.entries(declared).map(([name, { dataType, shape }]) => {
    const read = () => Promise.reject(new Error('no weight may be read'))
    return [name, { name, dataType, shape, byteLength: 0, file: 'm.safetensors', begin: 0, read }] as const
  })
  return {
    layout,
    folder: memoryFolder({}, 'dir'),
    config: new Map(),
    configPath: 'dir/config.json',
    tensors: new Map(tensors),
    byteLength: 0,
    close: async () => {},
  }
}

function declared(config: ModelConfig, layout: Layout): Declared {
  return Object.fromEntries([...expectedTensors(config, layout)].map(tensor => [tensor.name, tensor]))
}

function without(all: Declared, pattern: RegExp): Declared {
  return Object.fromEntries(Object.entries(all).filter(([name]) => !pattern.test(name)))
}

test('the tensors of 20b are those of the published files, in number and in bytes', () => {
  const config = {
    ...sized(24, 32),
    vocabSize: 201088,
    hiddenSize: 2880,
    intermediateSize: 2880,
    headDim: 64,
    numAttentionHeads: 64,
    numKeyValueHeads: 8,
  }
  const bytes = (layout: Layout) => {
    let sum = 0
    for (const { dataType, shape } of expectedTensors(config, layout)) {
      sum += shape.reduce((product, size) => product * size, dataType === 'BF16' ? 2 : 1)
    }
    return sum
  }
  assert.equal([...expectedTensors(config, 'openai')].length, 3 + 24 * 15)
  assert.equal([...expectedTensors(config, 'huggingface')].length, 3 + 24 * 19)
  assert.equal(bytes('openai'), bytes('huggingface'))
  assert.equal(Math.round((bytes('openai') / 2 ** 30) * 10) / 10, 12.8)
})

describe('a golden checkpoint has the tensors of its configuration', () => {
  for (const name of ['tiny/original', 'tiny/hf', 'wide/original', 'gqa/hf', 'odd-sizes/hf', 'plain/hf']) {
    test(name, async () => {
      const path = fileURLToPath(new URL(`../../test/golden/logits/${name}`, import.meta.url))
      const checkpoint = await openCheckpoint(await openFolder(path))
      checkTensors(checkpoint, readConfig(checkpoint.config, checkpoint.configPath))
      await checkpoint.close()
    })
  }
})

test('what does not fit the configuration is refused with tensor, numbers and cause', () => {
  const openai = declared(small, 'openai')
  const hf = declared(small, 'huggingface')
  const unquantized = { 'model.layers.0.mlp.experts.gate_up_proj': { dataType: 'BF16', shape: [4, 64, 64] } }
  const bf16 = (...shape: number[]) => ({ dataType: 'BF16', shape })
  const cases: [what: string, layout: Layout, tensors: Declared, config: ModelConfig, message: RegExp][] = [
    [
      'weights of 120b, config of 20b',
      'openai',
      declared(sized(36, 128), 'openai'),
      sized(24, 32),
      /^block\.0\.mlp\.gate\.weight has shape \[128, 64\], expected \[32, 64\]: this looks like gpt-oss-120b with the config of gpt-oss-20b; check dir\/config\.json$/,
    ],
    [
      'weights of 20b, config of 120b',
      'huggingface',
      declared(sized(24, 32), 'huggingface'),
      sized(36, 128),
      /^model\.layers\.0\.mlp\.router\.weight has shape \[32, 64\], expected \[128, 64\]: this looks like gpt-oss-20b with the config of gpt-oss-120b/,
    ],
    [
      'other experts',
      'openai',
      declared(sized(2, 8), 'openai'),
      small,
      /: the weights have 8 experts and the configuration 4; check/,
    ],
    [
      'a layer too few',
      'openai',
      without(openai, /^block\.1\./),
      small,
      /^dir has no tensor block\.1\.attn\.norm\.scale, expected BF16 \[64\] \(18 others are there\): the weights have 1 layers and the configuration 2/,
    ],
    [
      'a layer too many',
      'openai',
      declared(sized(3, 4), 'openai'),
      small,
      /^dir has 15 tensors that gpt-oss with this configuration does not have \("block\.2\.attn\.norm\.scale", .*, …\): the weights have 3 layers and the configuration 2/,
    ],
    [
      'no sinks',
      'huggingface',
      without(hf, /0\.self_attn\.sinks/),
      small,
      /has no tensor model\.layers\.0\.self_attn\.sinks, expected BF16 \[4\] \(40 others are there\): a file of the model is missing; download it again/,
    ],
    [
      'no unembedding',
      'openai',
      without(openai, /^unembedding/),
      small,
      /has no tensor unembedding\.weight, expected BF16 \[16, 64\]/,
    ],
    [
      'float32',
      'openai',
      { ...openai, 'norm.scale': { dataType: 'F32', shape: [64] } },
      small,
      /^norm\.scale in dir has type F32, expected BF16: gpt-oss is bfloat16 with MXFP4 experts; download/,
    ],
    [
      'scales as another type',
      'openai',
      { ...openai, 'block.0.mlp.mlp1_weight.scales': { dataType: 'F8_E8M0', shape: [4, 64, 2] } },
      small,
      /mlp1_weight\.scales in dir has type F8_E8M0, expected U8/,
    ],
    [
      'another vocabulary',
      'openai',
      { ...openai, 'embedding.weight': bf16(17, 64) },
      small,
      /^embedding\.weight has shape \[17, 64\], expected \[16, 64\]: weights and configuration are of different models; check dir\/config\.json/,
    ],
    [
      'q, k, v joined',
      'huggingface',
      { ...without(hf, /0\.self_attn\.[qkv]_proj\.weight/), 'model.layers.0.self_attn.qkv_proj.weight': bf16(64, 64) },
      small,
      /has no tensor model\.layers\.0\.self_attn\.q_proj\.weight, expected BF16 \[32, 64\]/,
    ],
    [
      'a dimension too many',
      'openai',
      { ...openai, 'norm.scale': bf16(64, 1) },
      small,
      /norm\.scale has shape \[64, 1\], expected \[64\]/,
    ],
    [
      'an adapter',
      'huggingface',
      { ...hf, 'model.layers.0.self_attn.q_proj.lora_A.weight': bf16(8, 64) },
      small,
      /has 1 tensors that .* \("model\.layers\.0\.self_attn\.q_proj\.lora_A\.weight"\): use the published model, without adapters/,
    ],
    [
      'saved unquantised',
      'huggingface',
      { ...without(hf, /experts\.gate_up_proj_(blocks|scales)/), ...unquantized },
      small,
      /^model\.layers\.0\.mlp\.experts\.gate_up_proj in dir is BF16 \[4, 64, 64\]: the experts were saved unquantised\. When .* packs experts of BF16, F16 or F32/,
    ],
  ]
  for (const [what, layout, tensors, config, message] of cases) {
    assert.throws(() => checkTensors(declare(layout, tensors), config), { name: 'CheckpointError', message }, what)
  }
})

test('a configuration that claims a million layers is refused at the first that is missing', () => {
  const before = performance.now()
  assert.throws(
    () => checkTensors(declare('openai', declared(small, 'openai')), sized(1_000_000, 4)),
    /has no tensor block\.2\./,
  )
  assert.ok(performance.now() - before < 1000)
})
