import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { type JsonObject, parseJson } from '../base/json.ts'
import { readConfig } from './config.ts'

const read = (fields: object) => readConfig(parseJson(JSON.stringify(fields)) as JsonObject, 'dir/config.json')

const sizes = {
  num_hidden_layers: 24,
  num_experts: 32,
  experts_per_token: 4,
  vocab_size: 201088,
  hidden_size: 2880,
  intermediate_size: 2880,
  head_dim: 64,
  num_attention_heads: 64,
  num_key_value_heads: 8,
  sliding_window: 128,
}

/** As OpenAI publishes 20b. */
const openai = {
  ...sizes,
  swiglu_limit: 7,
  initial_context_length: 4096,
  rope_theta: 150000,
  rope_scaling_factor: 32,
  rope_ntk_alpha: 1,
  rope_ntk_beta: 32,
}

const yarn = {
  rope_type: 'yarn',
  factor: 32,
  beta_fast: 32,
  beta_slow: 1,
  original_max_position_embeddings: 4096,
  truncate: false,
}
const { num_experts, experts_per_token, ...shared } = sizes

/** As it lies on Hugging Face. */
const huggingface = {
  ...shared,
  architectures: ['GptOssForCausalLM'],
  model_type: 'gpt_oss',
  attention_bias: true,
  hidden_act: 'silu',
  num_local_experts: num_experts,
  num_experts_per_tok: experts_per_token,
  experts_per_token,
  eos_token_id: 200002,
  initial_context_length: 4096,
  layer_types: Array.from({ length: 24 }, (_, n) => (n % 2 === 0 ? 'sliding_attention' : 'full_attention')),
  max_position_embeddings: 131072,
  quantization_config: { quant_method: 'mxfp4', modules_to_not_convert: ['lm_head'] },
  rms_norm_eps: 1e-5,
  rope_scaling: yarn,
  rope_theta: 150000,
  swiglu_limit: 7,
  tie_word_embeddings: false,
}

const expected = {
  numHiddenLayers: 24,
  numExperts: 32,
  expertsPerToken: 4,
  vocabSize: 201088,
  hiddenSize: 2880,
  intermediateSize: 2880,
  headDim: 64,
  numAttentionHeads: 64,
  numKeyValueHeads: 8,
  slidingWindow: 128,
  initialContextLength: 4096,
  ropeTheta: 150000,
  ropeScalingFactor: 32,
  ropeNtkAlpha: 1,
  ropeNtkBeta: 32,
  maxPositionEmbeddings: 131072,
  swigluLimit: 7,
  rmsNormEpsilon: 1e-5,
  eosTokenIds: undefined,
}

test('every spelling of 20b gives the same numbers', () => {
  const { rope_scaling, rope_theta, initial_context_length, experts_per_token, ...saved } = huggingface
  const cases: [what: string, fields: object][] = [
    ["OpenAI's", openai],
    ["OpenAI's sizes alone: the rest are constants", sizes],
    ["Hugging Face's", huggingface],
    ['saved by transformers 5', { ...saved, rope_parameters: { ...yarn, rope_theta: 150000 }, swiglu_alpha: 1.702 }],
    ['no rope_scaling', { ...huggingface, rope_scaling: undefined }],
    ['rope_scaling null', { ...huggingface, rope_scaling: null }],
    ['no rotary fields at all', { ...saved, max_position_embeddings: undefined }],
    ['an old spelling of rope_type', { ...huggingface, rope_scaling: { ...yarn, rope_type: undefined, type: 'yarn' } }],
    ['the concentration written out', { ...huggingface, rope_scaling: { ...yarn, attention_factor: 1.3465736 } }],
    ['no quantization_config, no layer_types', { ...huggingface, quantization_config: null, layer_types: null }],
    ['several ends', { ...huggingface, eos_token_id: [200002, 199999, 200012] }],
  ]
  for (const [what, fields] of cases) {
    const config = read(fields)
    assert.deepEqual({ ...config, eosTokenIds: undefined }, expected, what)
  }
  assert.deepEqual(read(huggingface).eosTokenIds, [200002])
  assert.deepEqual(read({ ...huggingface, eos_token_id: [1, 2] }).eosTokenIds, [1, 2])
})

test('plain rotary is a factor of 1, in each spelling', () => {
  const cases: object[] = [
    { ...openai, rope_scaling_factor: 1 },
    { ...huggingface, max_position_embeddings: 4096, rope_scaling: { ...yarn, factor: 1 } },
    { ...huggingface, max_position_embeddings: 4096, rope_scaling: { rope_type: 'default' } },
    { ...huggingface, max_position_embeddings: 4096, rope_parameters: { rope_type: 'default', rope_theta: 150000 } },
  ]
  for (const fields of cases) {
    const { ropeScalingFactor, maxPositionEmbeddings, initialContextLength } = read(fields)
    assert.deepEqual([ropeScalingFactor, initialContextLength, maxPositionEmbeddings], [1, 4096, 4096])
  }
})

test('both layouts of every golden checkpoint give the same numbers', () => {
  const goldens = new URL('../../test/golden/logits/', import.meta.url)
  const cases = readdirSync(goldens, { withFileTypes: true }).filter(entry => entry.isDirectory())
  assert.ok(cases.length >= 9)
  for (const { name } of cases) {
    const [original, hf] = ['original', 'hf'].map(layout => {
      const path = new URL(`${name}/${layout}/config.json`, goldens)
      return readConfig(parseJson(readFileSync(path, 'utf8')) as JsonObject, path.pathname)
    })
    assert.deepEqual(original, hf, name)
  }
})

test('another architecture is refused with field, value and what was expected', () => {
  const cases: [change: object, message: RegExp][] = [
    [
      { model_type: 'llama' },
      /^dir\/config\.json has model_type "llama", expected "gpt_oss": tutti runs gpt-oss-20b and gpt-oss-120b$/,
    ],
    [
      { architectures: ['LlamaForCausalLM'] },
      /has architectures \["LlamaForCausalLM"\], expected \["GptOssForCausalLM"\]/,
    ],
    [{ architectures: 'GptOssForCausalLM' }, /has architectures "GptOssForCausalLM"/],
    [{ attention_bias: false }, /has attention_bias false, expected true/],
    [{ hidden_act: 'gelu' }, /has hidden_act "gelu", expected "silu"/],
    [{ swiglu_alpha: 1 }, /has swiglu_alpha 1, expected 1\.702/],
    [{ tie_word_embeddings: true }, /has tie_word_embeddings true, expected false/],
    [
      { quantization_config: { quant_method: 'gptq' } },
      /has quantization_config\.quant_method "gptq", expected "mxfp4": .* download those/,
    ],
    [{ quantization_config: 'mxfp4' }, /has quantization_config "mxfp4", expected an object/],
    [
      { layer_types: Array(24).fill('full_attention') },
      /expected sliding_attention and full_attention in turn, sliding first/,
    ],
    [
      { layer_types: huggingface.layer_types.slice(2) },
      /expected one entry for each of num_hidden_layers = 24, not 22/,
    ],
    [{ layer_types: 'full' }, /has layer_types "full"/],
    [{ rope_scaling: { ...yarn, rope_type: 'llama3' } }, /has rope_scaling\.rope_type "llama3", expected "yarn"/],
    [{ rope_scaling: { factor: 32 } }, /has no rope_scaling\.rope_type, expected "yarn"/],
    [{ rope_scaling: { ...yarn, truncate: true } }, /has rope_scaling\.truncate true, expected false/],
    [{ rope_scaling: { ...yarn, truncate: undefined } }, /has no rope_scaling\.truncate, expected false/],
    [{ rope_scaling: { ...yarn, factor: undefined } }, /has no rope_scaling\.factor, expected a positive number/],
    [{ rope_scaling: { ...yarn, mscale: 0.7 } }, /has rope_scaling\.mscale 0\.7, expected 1/],
    [{ rope_scaling: { ...yarn, attention_factor: 1 } }, /has rope_scaling\.attention_factor 1, expected 1\.3465/],
    [{ rope_parameters: { full_attention: yarn, sliding_attention: yarn } }, /has no rope_parameters\.rope_type/],
    [
      { rope_scaling: { ...yarn, factor: 16 } },
      /has max_position_embeddings 131072, expected 65536, the initial context 4096 times/,
    ],
    [{ num_local_experts: 128, num_experts: 32 }, /has num_local_experts 128, expected 32, as num_experts says/],
    [{ num_experts_per_tok: 8 }, /has num_experts_per_tok 8, expected 4, as experts_per_token says/],
  ]
  for (const [change, message] of cases) {
    assert.throws(() => read({ ...huggingface, ...change }), { name: 'CheckpointError', message }, String(message))
  }
})

test('numbers that no model can have are refused', () => {
  const cases: [change: object, message: RegExp][] = [
    [{ hidden_size: undefined }, /dir\/config\.json has no hidden_size: it is not the config\.json of gpt-oss/],
    [{ num_experts: undefined }, /has no num_experts or num_local_experts/],
    [{ num_hidden_layers: 0 }, /has num_hidden_layers 0, expected an integer from 1 to 67108864/],
    [{ num_hidden_layers: -1 }, /expected an integer/],
    [{ vocab_size: 2.5 }, /expected an integer/],
    [{ vocab_size: '201088' }, /has vocab_size "201088", expected an integer/],
    [{ vocab_size: 2 ** 53 + 2 }, /has vocab_size 9007199254740994, expected an integer/],
    [{ sliding_window: true }, /has sliding_window true/],
    [{ experts_per_token: 33 }, /has experts_per_token 33, expected at most num_experts = 32/],
    [{ num_attention_heads: 60 }, /has num_attention_heads 60, expected a multiple of num_key_value_heads = 8/],
    [{ head_dim: 63 }, /has head_dim 63, expected an even number/],
    [{ hidden_size: 2881 }, /has hidden_size 2881, expected a multiple of 32/],
    [{ intermediate_size: 48 }, /has intermediate_size 48, expected a multiple of 32/],
    [{ swiglu_limit: 0 }, /has swiglu_limit 0, expected a positive number/],
    [{ rms_norm_eps: -1 }, /expected a positive number/],
    [{ rope_theta: 'x' }, /has rope_theta "x", expected a positive number/],
    [{ eos_token_id: -1 }, /has eos_token_id -1, expected a token id, or a list of them/],
    [{ eos_token_id: [1, '2'] }, /has eos_token_id \[1,"2"\]/],
    [
      { rope_ntk_beta: 1 },
      /YaRN numbers \(theta 150000, initial context 4096, alpha 1, beta 1\) .* expected 0 < low < high < 31/,
    ],
    [{ rope_ntk_beta: 1000 }, /whose ramp runs from -/],
    [{ rope_ntk_alpha: 1e-6 }, /whose ramp runs from 8\.09 to/],
    [{ rope_theta: 1 }, /YaRN numbers/],
  ]
  for (const [change, message] of cases) {
    assert.throws(() => read({ ...openai, ...change }), { name: 'CheckpointError', message }, String(message))
  }
})
