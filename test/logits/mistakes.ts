import type { Patch } from '../board/row.ts'

/** A likely mistake in the forward pass, as search and replace in the source. */
export type Mistake = Patch & { what: string }

const transformer = 'src/model/transformer.ts'
const yarn = 'src/model/yarn.ts'
const attention = 'src/kernels/attention/attention.ref.ts'
const rope = 'src/kernels/rope/rope.ref.ts'
const rmsNorm = 'src/kernels/rms-norm/rms-norm.ref.ts'
const topK = 'src/kernels/top-k/top-k.ref.ts'
const experts = 'src/kernels/experts/experts.ref.ts'
const mxfp4 = 'src/base/mxfp4.ts'

const turnedPair = `const a = qkv[at + i]
        const b = qkv[at + half + i]
        out[at + i] = a * cos[i] - b * sin[i]
        out[at + half + i] = b * cos[i] + a * sin[i]`
const interleavedPair = `const a = qkv[at + 2 * i]
        const b = qkv[at + 2 * i + 1]
        out[at + 2 * i] = a * cos[i] - b * sin[i]
        out[at + 2 * i + 1] = b * cos[i] + a * sin[i]`

const gate = 'const gate = Math.min(pairs[2 * i], limit)'
const linear = 'const linear = Math.max(-limit, Math.min(pairs[2 * i + 1], limit))'
const inHalves = `inner.map((_, i) => {
      const row = i - (i % (2 * innerSize))
      return inner[row + (i % 2) * innerSize + Math.floor((i - row) / 2)]
    })`

const bounds = 'low: dimension(ropeNtkBeta), high: dimension(ropeNtkAlpha)'
const ramp = 'const ramp = Math.min(Math.max((i - low) / (high - low), 0), 1)'

/** The mistakes that `check.py --mistakes` beside the goldens measures, in its order. */
export const mistakes: Mistake[] = [
  { what: 'window - 1', file: attention, search: 'position - window + 1', replace: 'position - window + 2' },
  { what: 'window + 1', file: attention, search: 'position - window + 1', replace: 'position - window' },
  { what: 'window on odd layers', file: transformer, search: 'n % 2 === 0 ?', replace: 'n % 2 === 1 ?' },
  { what: 'no window', file: transformer, search: '? slidingWindow : Infinity', replace: '? Infinity : Infinity' },
  { what: 'no sinks', file: attention, search: 'Math.exp(sinks[head] - max)', replace: '0' },
  {
    what: 'sink scaled too',
    file: attention,
    search: 'attend(query, sinks, cache',
    replace: 'attend(query, sinks.map(sink => sink / Math.sqrt(shape.headDim)), cache',
  },
  {
    what: 'query heads dealt in turn',
    file: attention,
    search: 'Math.floor(head / headsPerKey)',
    replace: '(head % numKeyValueHeads)',
  },
  { what: 'no 1/sqrt(head_dim)', file: attention, search: 'scale = 1 / Math.sqrt(headDim)', replace: 'scale = 1' },
  { what: 'rotary pairs interleaved', file: rope, search: turnedPair, replace: interleavedPair },
  { what: 'rotary turns the other way', file: rope, search: '= Math.sin(angle)', replace: '= -Math.sin(angle)' },
  { what: 'no YaRN', file: yarn, search: 'if (factor <= 1)', replace: 'if (factor > 0)' },
  { what: 'no concentration', file: yarn, search: '0.1 * Math.log(factor) + 1', replace: '1' },
  {
    what: 'YaRN bounds rounded',
    file: yarn,
    search: bounds,
    replace: 'low: Math.floor(dimension(ropeNtkBeta)), high: Math.ceil(dimension(ropeNtkAlpha))',
  },
  { what: 'YaRN ramp reversed', file: yarn, search: ramp, replace: ramp.replace('Math.min', '1 - Math.min') },
  { what: 'all frequencies interpolated', file: yarn, search: ramp, replace: 'const ramp = 1' },
  { what: 'no qkv bias', file: transformer, search: 'layer.qkv, layer.qkvBias', replace: 'layer.qkv' },
  { what: 'no out bias', file: transformer, search: 'layer.out, layer.outBias', replace: 'layer.out' },
  { what: 'no router bias', file: transformer, search: 'layer.router, layer.routerBias', replace: 'layer.router' },
  { what: 'no gate-up bias', file: experts, search: ' + bias[r]', replace: '' },
  { what: 'no down bias', file: experts, search: ' + biasDown[r]', replace: '' },
  {
    what: 'down bias not weighted',
    file: experts,
    search: ' + biasDown[r]',
    replace: ' + biasDown[r] / weights[slot]',
  },
  {
    what: 'softmax over all experts',
    file: topK,
    search: 'exponentials.reduce(',
    replace: '[...row].map(logit => Math.exp(logit - row[chosen[0]])).reduce(',
  },
  {
    what: 'one expert too few',
    file: topK,
    search: 'exponentials.map(e => e / total)',
    replace: 'exponentials.map((e, i) => (i === k - 1 ? 0 : e / total))',
  },
  {
    what: 'router reads before the norm',
    file: transformer,
    search: 'ops.linear(t, layer',
    replace: 'ops.linear(x, layer',
  },
  { what: 'gate and linear in halves', file: experts, search: 'swiglu(inner, ', replace: `swiglu(${inHalves}, ` },
  {
    what: 'gate and linear swapped',
    file: experts,
    search: `${gate}\n    ${linear}`,
    replace: `${gate.replace('2 * i', '2 * i + 1')}\n    ${linear.replace('2 * i + 1', '2 * i')}`,
  },
  {
    what: 'no clamp',
    file: experts,
    search: `${gate}\n    ${linear}`,
    replace: 'const gate = pairs[2 * i]\n    const linear = pairs[2 * i + 1]',
  },
  { what: 'gate not clamped', file: experts, search: gate, replace: 'const gate = pairs[2 * i]' },
  {
    what: 'gate clamped below too',
    file: experts,
    search: gate,
    replace: 'const gate = Math.max(-limit, Math.min(pairs[2 * i], limit))',
  },
  { what: 'linear not clamped', file: experts, search: linear, replace: 'const linear = pairs[2 * i + 1]' },
  {
    what: 'linear not clamped below',
    file: experts,
    search: linear,
    replace: 'const linear = Math.min(pairs[2 * i + 1], limit)',
  },
  { what: 'sigmoid(gate)', file: experts, search: 'const alpha = 1.702', replace: 'const alpha = 1' },
  { what: 'linear + 0', file: experts, search: '* (linear + 1)\n', replace: '* linear\n' },
  {
    what: 'nibbles swapped',
    file: mxfp4,
    search: `out[at] = fp4Values[pair & 15] * factor
      out[at + 1] = fp4Values[pair >> 4] * factor`,
    replace: `out[at + 1] = fp4Values[pair & 15] * factor
      out[at] = fp4Values[pair >> 4] * factor`,
  },
  { what: 'eps 1e-6', file: rmsNorm, search: 'width + epsilon)', replace: 'width + epsilon / 10)' },
  {
    what: 'eps outside the root',
    file: rmsNorm,
    search: 'Math.sqrt(squares / width + epsilon)',
    replace: '(Math.sqrt(squares / width) + epsilon)',
  },
  { what: 'norm weight + 1', file: rmsNorm, search: '* weight[i]', replace: '* (1 + weight[i])' },
  {
    what: 'no final norm',
    file: transformer,
    search: 'ops.rmsNorm(x, norm, config.rmsNormEpsilon)',
    replace: 'x',
  },
  {
    what: 'unembedding tied',
    file: transformer,
    search: 'ops.linear(last, unembedding)',
    replace: 'ops.linear(last, embedding)',
  },
]
