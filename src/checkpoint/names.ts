/** The parts of one layer that lie in a checkpoint, by our names (transformer.ts gives their shapes). */
export interface LayerParts<T> {
  attentionNorm: T
  qkv: T
  qkvBias: T
  sinks: T
  out: T
  outBias: T
  mlpNorm: T
  router: T
  routerBias: T
  gateUpBlocks: T
  gateUpScales: T
  gateUpBias: T
  downBlocks: T
  downScales: T
  downBias: T
}

/** The parts outside the layers. */
export interface OuterParts<T> {
  embedding: T
  norm: T
  unembedding: T
}

/** Who named the tensors. */
export type Layout = 'openai' | 'huggingface'

/** A part is one tensor, or several whose rows follow each other. */
type Names = readonly string[]

const outer: Record<Layout, OuterParts<Names>> = {
  openai: { embedding: ['embedding.weight'], norm: ['norm.scale'], unembedding: ['unembedding.weight'] },
  huggingface: {
    embedding: ['model.embed_tokens.weight'],
    norm: ['model.norm.weight'],
    unembedding: ['lm_head.weight'],
  },
}

/** Behind `block.N.` and `model.layers.N.`. */
const inner: Record<Layout, LayerParts<Names>> = {
  openai: {
    attentionNorm: ['attn.norm.scale'],
    qkv: ['attn.qkv.weight'],
    qkvBias: ['attn.qkv.bias'],
    sinks: ['attn.sinks'],
    out: ['attn.out.weight'],
    outBias: ['attn.out.bias'],
    mlpNorm: ['mlp.norm.scale'],
    router: ['mlp.gate.weight'],
    routerBias: ['mlp.gate.bias'],
    gateUpBlocks: ['mlp.mlp1_weight.blocks'],
    gateUpScales: ['mlp.mlp1_weight.scales'],
    gateUpBias: ['mlp.mlp1_bias'],
    downBlocks: ['mlp.mlp2_weight.blocks'],
    downScales: ['mlp.mlp2_weight.scales'],
    downBias: ['mlp.mlp2_bias'],
  },
  huggingface: {
    attentionNorm: ['input_layernorm.weight'],
    qkv: ['self_attn.q_proj.weight', 'self_attn.k_proj.weight', 'self_attn.v_proj.weight'],
    qkvBias: ['self_attn.q_proj.bias', 'self_attn.k_proj.bias', 'self_attn.v_proj.bias'],
    sinks: ['self_attn.sinks'],
    out: ['self_attn.o_proj.weight'],
    outBias: ['self_attn.o_proj.bias'],
    mlpNorm: ['post_attention_layernorm.weight'],
    router: ['mlp.router.weight'],
    routerBias: ['mlp.router.bias'],
    gateUpBlocks: ['mlp.experts.gate_up_proj_blocks'],
    gateUpScales: ['mlp.experts.gate_up_proj_scales'],
    gateUpBias: ['mlp.experts.gate_up_proj_bias'],
    downBlocks: ['mlp.experts.down_proj_blocks'],
    downScales: ['mlp.experts.down_proj_scales'],
    downBias: ['mlp.experts.down_proj_bias'],
  },
}

const layerPrefix: Record<Layout, string> = { openai: 'block', huggingface: 'model.layers' }

export function outerNames(layout: Layout): OuterParts<Names> {
  return outer[layout]
}

/** The tensor names of layer `n`, from 0. */
export function layerNames(layout: Layout, n: number): LayerParts<Names> {
  const entries = Object.entries(inner[layout] as LayerParts<Names> & Record<string, Names>)
  const prefixed = entries.map(([part, names]) => [part, names.map(name => `${layerPrefix[layout]}.${n}.${name}`)])
  return Object.fromEntries(prefixed)
}

/** The number of the layer that a tensor belongs to; undefined for those outside the layers. */
export function layerOf(name: string): number | undefined {
  const number = /^(?:block|model\.layers)\.(\d+)\./.exec(name)?.[1]
  return number === undefined ? undefined : Number(number)
}

/** Which layout these tensor names are in; undefined if in neither. */
export function detectLayout(names: Iterable<string>): Layout | undefined {
  for (const name of names) {
    if (name === outer.openai.embedding[0] || name.startsWith('block.')) return 'openai'
    if (name === outer.huggingface.embedding[0] || name.startsWith('model.layers.')) return 'huggingface'
  }
  return undefined
}
