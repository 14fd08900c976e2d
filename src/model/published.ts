import { type ModelConfig, readConfig } from './config.ts'

/** The published models, which differ in two numbers: what their `config.json` says. */
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
  return readConfig(new Map(Object.entries(fields)), `gpt-oss-${model}`)
}
