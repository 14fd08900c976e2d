import { RequestError } from '../base/errors.ts'
import { seededRandom } from '../base/random.ts'
import type { SampledToken, SamplingOptions } from './engine.ts'
import { likeliest, likeliestFew, likeliestFrom, refuseLogits } from './likeliest.ts'
import type { TokenMask } from './mask.ts'
import { checkSampling } from './request.ts'
import { drawFromAll, sumOfWeights } from './softmax.ts'

/** Chooses the tokens of one answer. */
export class Sampler {
  readonly #options: SamplingOptions
  readonly #bias: readonly [id: number, bias: number][]
  readonly #mask: TokenMask | undefined
  readonly #random: () => number
  readonly #counts = new Map<number, number>() // generated token → how often

  /** Throws RequestError for options that describe no distribution. */
  constructor(options: SamplingOptions, vocabSize: number, mask?: TokenMask) {
    checkSampling(options, vocabSize)
    this.#options = options
    this.#bias = Object.entries(options.logitBias ?? {}).map(([id, bias]) => [Number(id), bias])
    this.#mask = mask
    this.#random = seededRandom(seedOf(options.seed ?? Math.floor(Math.random() * 2 ** 32)))
  }

  /**
   * One token from logits [vocabSize], which are left as they are. Each call takes as many random numbers. Throws
   * DeviceError for logits that are no numbers, RequestError where mask and bias forbid every token.
   */
  sample(logits: Float32Array): SampledToken {
    const draw = uniform(this.#random)
    const top = likeliest(logits)
    if (logits[top] === -Infinity) refuseLogits('every logit is -Infinity')
    const adjusted = this.#adjust(logits)
    const token = this.#choose(adjusted, adjusted === logits ? top : likeliest(adjusted), draw)
    this.#counts.set(token, (this.#counts.get(token) ?? 0) + 1)
    this.#mask?.advance(token)
    return { token, ...this.#logprobs(logits, top, token) }
  }

  /** Penalties, then bias, then mask; the logits themselves where there are none. */
  #adjust(logits: Float32Array): Float32Array {
    const { frequencyPenalty = 0, presencePenalty = 0, repetitionPenalty = 1 } = this.#options
    const penalised = frequencyPenalty !== 0 || presencePenalty !== 0 || repetitionPenalty !== 1
    if (!penalised && this.#bias.length === 0 && !this.#mask) return logits
    const out = logits.slice()
    if (penalised) {
      for (const [token, count] of this.#counts) {
        const repeated = out[token] > 0 ? out[token] / repetitionPenalty : out[token] * repetitionPenalty
        out[token] = repeated - frequencyPenalty * count - presencePenalty
      }
    }
    for (const [token, bias] of this.#bias) out[token] += bias
    const allowed = this.#mask?.allowed()
    if (allowed) {
      for (let id = 0; id < out.length; id++) if (((allowed[id >> 5] >>> (id & 31)) & 1) === 0) out[id] = -Infinity
    }
    return out
  }

  /** Temperature, then top-k, top-p, min-p, then one draw. */
  #choose(logits: Float32Array, top: number, draw: number): number {
    if (logits[top] === -Infinity) {
      throw new RequestError(
        'no token can come next: mask and logitBias together forbid every one that the model could give',
        { param: this.#mask ? 'mask' : 'logitBias' },
      )
    }
    const { temperature = 1, topK = 0, topP = 1, minP = 0 } = this.#options
    if (temperature === 0) return top
    const weight = (id: number) => Math.exp((logits[id] - logits[top]) / temperature)
    if (topK === 0 && topP === 1 && minP === 0) return drawFromAll(logits, logits[top], temperature, draw)
    const kept = shortlist(logits, top, temperature, { topK, topP, minP })
    const weights = kept.map(weight)
    let left = draw * weights.reduce((a, b) => a + b)
    for (const [i, id] of kept.entries()) if ((left -= weights[i]) < 0) return id
    return kept[kept.length - 1]
  }

  #logprobs(logits: Float32Array, top: number, token: number): Partial<SampledToken> {
    const wanted = this.#options.logprobs
    if (wanted === undefined) return {}
    const logSum = Math.log(sumOfWeights(logits, logits[top], 1))
    const logprob = (id: number) => logits[id] - logits[top] - logSum
    if (wanted === 0) return { logprob: logprob(token) }
    const topLogprobs = likeliestFew(logits, wanted).map(id => ({ token: id, logprob: logprob(id) }))
    return { logprob: logprob(token), topLogprobs }
  }
}

/** 32 bits of a seed that may have 53 and a sign; seeds of 32 bits all give others. */
const seedOf = (seed: number): number => mixed(mixed(seed >>> 0) ^ Math.floor(seed / 2 ** 32))

/** MurmurHash3's finaliser: every bit of the 32 depends on every bit. */
function mixed(bits: number): number {
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b)
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35)
  return bits ^ (bits >>> 16)
}

/** 53 random bits in [0, 1), from two numbers of 32. */
const uniform = (random: () => number): number => random() + Math.floor(random() * 2 ** 21) / 2 ** 53

/** The tokens that top-k, then top-p, then min-p leave, by falling logit. */
function shortlist(
  logits: Float32Array,
  top: number,
  temperature: number,
  { topK, topP, minP }: { topK: number; topP: number; minP: number },
): number[] {
  const weight = (id: number) => Math.exp((logits[id] - logits[top]) / temperature) // 1 for the likeliest
  const few = topK > 0 ? likeliestFew(logits, topK) : undefined
  let enough = Infinity
  let least = minP
  if (topP < 1) {
    const total = few ? few.reduce((sum, id) => sum + weight(id), 0) : sumOfWeights(logits, logits[top], temperature)
    enough = topP * total
    // All tokens lighter than this weigh less than the share that may be left out: sorting them is idle.
    least = Math.max(minP, ((1 - topP) * total) / logits.length)
  }
  const kept: number[] = []
  let reached = 0
  const roundingBelow = 1e-6 // of a logarithm's
  for (const id of few ?? likeliestFrom(logits, logits[top] + temperature * (Math.log(least) - roundingBelow))) {
    const w = weight(id)
    if (w < minP || w === 0 || reached >= enough) break
    kept.push(id)
    reached += w
  }
  return kept
}
