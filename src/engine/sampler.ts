import { DeviceError, RequestError } from '../base/errors.ts'
import { seededRandom } from '../base/random.ts'
import type { SampledToken, SamplingOptions } from './engine.ts'
import type { TokenMask } from './mask.ts'

const defaults = {
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  frequencyPenalty: 0,
  presencePenalty: 0,
  repetitionPenalty: 1,
}

/** Chooses the tokens of one answer. */
export class Sampler {
  readonly #options: SamplingOptions & typeof defaults
  readonly #bias: [number, number][]
  readonly #mask: TokenMask | undefined
  readonly #random: () => number
  readonly #counts = new Map<number, number>() // generated token → how often

  constructor(options: SamplingOptions = {}, mask?: TokenMask) {
    this.#options = checkedSampling(options)
    this.#bias = Object.entries(options.logitBias ?? {}).map(([id, bias]) => [Number(id), bias])
    this.#mask = mask
    this.#random = seededRandom(seedOf(options.seed ?? Math.floor(Math.random() * 2 ** 32)))
  }

  /** One token from logits [vocabSize], which are left as they are. Every token uses the same number of random numbers. */
  sample(logits: Float32Array): SampledToken {
    const draw = this.#random() + this.#random() / 2 ** 32
    const top = largest(logits)
    const adjusted = this.#adjust(logits)
    const token = this.#choose(adjusted, adjusted === logits ? top : largest(adjusted), draw)
    this.#counts.set(token, (this.#counts.get(token) ?? 0) + 1)
    this.#mask?.advance(token)
    return { token, ...this.#logprobs(logits, top, token) }
  }

  /** Penalties, bias and mask; the logits themselves where there are none. */
  #adjust(logits: Float32Array): Float32Array {
    const { frequencyPenalty, presencePenalty, repetitionPenalty } = this.#options
    const penalised = frequencyPenalty !== 0 || presencePenalty !== 0 || repetitionPenalty !== 1
    if (!penalised && this.#bias.length === 0 && !this.#mask) return logits
    const out = logits.slice()
    if (penalised) {
      for (const [token, count] of this.#counts) {
        const repeated = out[token] > 0 ? out[token] / repetitionPenalty : out[token] * repetitionPenalty
        out[token] = repeated - frequencyPenalty * count - presencePenalty
      }
    }
    for (const [token, bias] of this.#bias) if (token < out.length) out[token] += bias
    const allowed = this.#mask?.allowed()
    if (allowed) {
      for (let id = 0; id < out.length; id++) if (((allowed[id >> 5] >>> (id & 31)) & 1) === 0) out[id] = -Infinity
    }
    return out
  }

  #choose(logits: Float32Array, top: number, draw: number): number {
    if (logits[top] === -Infinity) {
      throw new RequestError('no token can come next: the mask and logit_bias forbid every one of them', {
        param: this.#mask ? 'mask' : 'logit_bias',
      })
    }
    const { temperature, topK, topP, minP } = this.#options
    if (temperature === 0) return top
    const weight = (id: number) => Math.exp((logits[id] - logits[top]) / temperature)
    if (topK === 0 && topP === 1 && minP === 0) return drawFromAll(logits, top, temperature, draw)
    const kept = shortlist(logits, weight, { topK, topP, minP })
    const weights = kept.map(weight)
    let left = draw * weights.reduce((a, b) => a + b)
    for (const [i, id] of kept.entries()) if ((left -= weights[i]) < 0) return id
    return kept[kept.length - 1]
  }

  #logprobs(logits: Float32Array, top: number, token: number): Partial<SampledToken> {
    const wanted = this.#options.logprobs
    if (wanted === undefined) return {}
    let sum = 0
    for (let id = 0; id < logits.length; id++) sum += Math.exp(logits[id] - logits[top])
    const logprob = (id: number) => logits[id] - logits[top] - Math.log(sum)
    if (wanted === 0) return { logprob: logprob(token) }
    const topLogprobs = firstFalling(logits, wanted).map(id => ({ token: id, logprob: logprob(id) }))
    return { logprob: logprob(token), topLogprobs }
  }
}

/** 32 bits of a seed that may have 53. */
const seedOf = (seed: number): number => (seed >>> 0) ^ Math.imul(Math.floor(seed / 2 ** 32), 0x9e3779b9)

/** The tokens that top-k, then top-p, then min-p leave, falling. `weight` is 1 for the likeliest. */
function shortlist(
  logits: Float32Array,
  weight: (id: number) => number,
  { topK, topP, minP }: { topK: number; topP: number; minP: number },
): number[] {
  const candidates = topK > 0 ? firstFalling(logits, topK) : falling(logits)
  let enough = Infinity
  if (topP < 1) {
    let total = 0
    for (const id of topK > 0 ? candidates : logits.keys()) total += weight(id)
    enough = topP * total
  }
  const kept: number[] = []
  let reached = 0
  for (const id of candidates) {
    const w = weight(id)
    if (w < minP || reached >= enough || w === 0) break
    kept.push(id)
    reached += w
  }
  return kept
}

/** Draws from softmax(logits / temperature) in one pass over the exponentials. */
function drawFromAll(logits: Float32Array, top: number, temperature: number, draw: number): number {
  const sums = new Float64Array(logits.length)
  let sum = 0
  for (let id = 0; id < logits.length; id++) sums[id] = sum += Math.exp((logits[id] - logits[top]) / temperature)
  const target = draw * sum
  let low = 0
  let high = logits.length - 1
  while (low < high) {
    const middle = (low + high) >> 1
    if (sums[middle] > target) high = middle
    else low = middle + 1
  }
  return low
}

/** The id of the largest logit, ties to the lowest id. Throws DeviceError where a logit is no number. */
function largest(logits: Float32Array): number {
  let top = 0
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id]
    if (!(logit < Infinity)) {
      throw new DeviceError(
        `the logit of token ${id} is ${logit}: the device computed nonsense or the weights are damaged; ` +
          'verify the model files, or try another device',
      )
    }
    if (logit > logits[top]) top = id
  }
  return top
}

function firstFalling(logits: Float32Array, count: number): number[] {
  const ids: number[] = []
  if (count === 0) return ids
  for (const id of falling(logits)) if (ids.push(id) === count) break
  return ids
}

/** Ids by falling logit, ties by rising id: a heap, so that the first few cost no sort of all. */
function* falling(logits: Float32Array): Generator<number> {
  const heap = Uint32Array.from(logits.keys())
  const before = (a: number, b: number) => logits[a] > logits[b] || (logits[a] === logits[b] && a < b)
  const sink = (root: number, length: number) => {
    const id = heap[root]
    for (let child = 2 * root + 1; child < length; child = 2 * root + 1) {
      if (child + 1 < length && before(heap[child + 1], heap[child])) child++
      if (!before(heap[child], id)) break
      heap[root] = heap[child]
      root = child
    }
    heap[root] = id
  }
  for (let root = (heap.length >> 1) - 1; root >= 0; root--) sink(root, heap.length)
  for (let length = heap.length; length > 0; length--) {
    yield heap[0]
    heap[0] = heap[length - 1]
    sink(0, length - 1)
  }
}

function checkedSampling(options: SamplingOptions): SamplingOptions & typeof defaults {
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))
  const checked: SamplingOptions & typeof defaults = { ...defaults, ...given }
  const demand = (name: keyof SamplingOptions, holds: boolean, range: string) => {
    if (!holds) throw new RequestError(`${name} is ${checked[name]}; it must be ${range}`, { param: name })
  }
  const between = (name: keyof typeof defaults, low: number, high: number) =>
    demand(name, checked[name] >= low && checked[name] <= high, `a number from ${low} to ${high}`)
  demand('temperature', checked.temperature >= 0 && checked.temperature < Infinity, 'a number from 0 on')
  demand('topK', Number.isInteger(checked.topK) && checked.topK >= 0, 'a whole number from 0 on')
  demand('topP', checked.topP > 0 && checked.topP <= 1, 'a number above 0 and up to 1')
  between('minP', 0, 1)
  between('frequencyPenalty', -2, 2)
  between('presencePenalty', -2, 2)
  demand('repetitionPenalty', checked.repetitionPenalty > 0 && checked.repetitionPenalty < Infinity, 'a positive number')
  const { seed, logprobs, logitBias } = options
  demand('seed', seed === undefined || Number.isSafeInteger(seed), 'a whole number')
  demand('logprobs', logprobs === undefined || (Number.isInteger(logprobs) && logprobs >= 0), 'a whole number from 0 on')
  for (const [id, bias] of Object.entries(logitBias ?? {})) {
    if (!/^\d+$/.test(id) || !(bias < Infinity)) {
      throw new RequestError(`logitBias[${id}] is ${bias}; it must map token ids to finite numbers or -Infinity`, {
        param: 'logitBias',
      })
    }
  }
  return checked
}
