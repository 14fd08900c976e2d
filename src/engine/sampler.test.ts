import assert from 'node:assert/strict'
import { mock, test } from 'node:test'
import fc from 'fast-check'
import { seededRandom } from '../base/random.ts'
import type { SamplingOptions } from './engine.ts'
import { createMask } from './mask.ts'
import { Sampler } from './sampler.ts'

/** What a token is drawn from, by the formulas and slowly: probability by token, in the order of falling logits. */
function plainDistribution(
  logits: Float32Array,
  options: SamplingOptions,
  generated: readonly number[] = [],
  allowed?: readonly number[],
): Map<number, number> {
  const { temperature = 1, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1 } = options
  const { frequencyPenalty = 0, presencePenalty = 0, logitBias = {} } = options
  const adjusted = [...logits].map((logit, id) => {
    const count = generated.filter(token => token === id).length
    if (count > 0) {
      logit = logit > 0 ? logit / repetitionPenalty : logit * repetitionPenalty
      logit = Math.fround(logit - frequencyPenalty * count - presencePenalty)
    }
    logit = Math.fround(logit + (logitBias[id] ?? 0))
    return allowed && !allowed.includes(id) ? -Infinity : logit
  })
  let ids = [...adjusted.keys()].filter(id => adjusted[id] > -Infinity)
  ids.sort((a, b) => adjusted[b] - adjusted[a] || a - b)
  if (temperature === 0) return new Map([[ids[0], 1]])
  if (topK > 0) ids = ids.slice(0, topK)
  const softmax = (): number[] => {
    const weights = ids.map(id => Math.exp((adjusted[id] - adjusted[ids[0]]) / temperature))
    const total = weights.reduce((a, b) => a + b)
    return weights.map(weight => weight / total)
  }
  const before = (i: number) => softmax().slice(0, i).reduce((a, b) => a + b, 0) // biome-ignore format: one thought
  if (topP < 1) ids = ids.filter((_, i) => before(i) < topP)
  ids = ids.filter((_, i) => softmax()[i] >= minP * softmax()[0])
  return new Map(softmax().map((probability, i) => [ids[i], probability]))
}

const noise = (length: number, seed: number, width = 4) => {
  const random = seededRandom(seed)
  return Float32Array.from({ length }, () => (random() - random()) * width)
}

/** A sampler that has generated these tokens: each was the only one with a logit. */
function samplerAfter(generated: readonly number[], options: SamplingOptions, vocabSize: number, allowed?: number[]) {
  const mask = allowed && createMask({ type: 'tokens', allowed }, vocabSize)
  const sampler = new Sampler(options, vocabSize, mask)
  for (const token of generated) {
    const only = new Float32Array(vocabSize).fill(-Infinity)
    only[token] = 1
    assert.equal(sampler.sample(only).token, token)
  }
  return sampler
}

const distributions: { name: string; options: SamplingOptions; generated?: number[]; allowed?: number[] }[] = [
  { name: 'the defaults', options: {} },
  { name: 'a low temperature', options: { temperature: 0.4 } },
  { name: 'a high temperature', options: { temperature: 3 } },
  { name: 'top-k', options: { topK: 5 } },
  { name: 'top-p', options: { topP: 0.8 } },
  { name: 'min-p', options: { minP: 0.2 } },
  { name: 'temperature before top-p', options: { temperature: 2, topP: 0.6 } },
  { name: 'top-k before top-p', options: { topK: 4, topP: 0.7 } },
  { name: 'top-k, top-p and min-p', options: { topK: 12, topP: 0.9, minP: 0.1 } },
  { name: 'a bias', options: { logitBias: { 0: 3, 1: -2, 2: -Infinity } } },
  { name: 'bias before top-k', options: { logitBias: { 3: 9, 4: 9 }, topK: 3 } },
  { name: 'a mask', options: {}, allowed: [1, 4, 9, 16] },
  { name: 'mask before top-k', options: { topK: 3 }, allowed: [2, 3, 5, 7, 11, 13, 17] },
  { name: 'mask after bias', options: { logitBias: { 6: 100 } }, allowed: [1, 2, 3] },
  { name: 'a frequency penalty', options: { frequencyPenalty: 0.7 }, generated: [3, 3, 3, 8] },
  { name: 'a presence penalty', options: { presencePenalty: 1.5 }, generated: [3, 3, 3, 8] },
  {
    name: 'a repetition penalty',
    options: { repetitionPenalty: 1.8 },
    generated: [...noise(20, 5).keys()].slice(0, 9),
  },
  {
    name: 'penalties before bias, and the rest behind',
    options: {
      frequencyPenalty: 0.5,
      repetitionPenalty: 1.3,
      logitBias: { 3: 2, 8: -1 },
      temperature: 0.8,
      topP: 0.95,
    },
    generated: [3, 8, 8],
  },
]

// Penalties would change with each sample that a sampler draws, so every sample has a new one with a seed of its own.
for (const { name, options, generated, allowed } of distributions) {
  test(`samples are distributed as the formulas say: ${name}`, () => {
    const logits = noise(20, 5)
    const n = 4000
    const counts = new Map<number, number>()
    for (let seed = 0; seed < n; seed++) {
      const sampler = samplerAfter(allowed ? [] : (generated ?? []), { ...options, seed }, logits.length, allowed)
      const { token } = sampler.sample(logits)
      counts.set(token, (counts.get(token) ?? 0) + 1)
    }
    const expected = plainDistribution(logits, options, generated, allowed)
    for (const token of counts.keys()) assert.ok(expected.has(token), `token ${token} should not come`)
    let chiSquare = 0
    for (const [token, p] of expected) chiSquare += ((counts.get(token) ?? 0) - n * p) ** 2 / (n * p)
    const freedom = expected.size - 1
    // mean and deviation of chi-square: five deviations and a little are exceeded once in a million tables of this kind
    assert.ok(chiSquare <= freedom + 5 * Math.sqrt(2 * freedom) + 8, `chi-square ${chiSquare}, freedom ${freedom}`)
  })
}

test('consecutive samples of one sampler are distributed as the formulas say, and do not depend on one another', () => {
  const logits = noise(6, 8, 2)
  const sampler = new Sampler({ seed: 77 }, 6)
  const pairs = new Map<string, number>()
  const n = 60_000
  let last = sampler.sample(logits).token
  for (let i = 0; i < n; i++) {
    const { token } = sampler.sample(logits)
    pairs.set(`${last} ${token}`, (pairs.get(`${last} ${token}`) ?? 0) + 1)
    last = token
  }
  const p = plainDistribution(logits, {})
  let chiSquare = 0
  for (const [a, pa] of p) {
    for (const [b, pb] of p) chiSquare += ((pairs.get(`${a} ${b}`) ?? 0) - n * pa * pb) ** 2 / (n * pa * pb)
  }
  assert.ok(chiSquare <= 35 + 5 * Math.sqrt(70), `chi-square ${chiSquare} of 36 pairs`) // as above
})

const vocabSize = 24
const anyLogits = fc
  .array(
    fc.oneof(
      fc.float({ min: -8, max: 8, noNaN: true }),
      fc.constantFrom(-Infinity, 0, 1, 1, 3), // ties, and tokens that the model itself rules out
    ),
    { minLength: vocabSize, maxLength: vocabSize },
  )
  .filter(values => values.some(value => value > -Infinity))
  .map(values => Float32Array.from(values))
const token = fc.integer({ min: 0, max: vocabSize - 1 })
const anyOptions = fc.record(
  {
    temperature: fc.oneof(fc.constant(0), fc.double({ min: 0.05, max: 5, noNaN: true })),
    topK: fc.integer({ min: 0, max: vocabSize + 3 }),
    topP: fc.double({ min: 0.01, max: 1, noNaN: true }),
    minP: fc.double({ min: 0, max: 1, noNaN: true }),
    frequencyPenalty: fc.double({ min: -2, max: 2, noNaN: true }),
    presencePenalty: fc.double({ min: -2, max: 2, noNaN: true }),
    repetitionPenalty: fc.double({ min: 0.5, max: 2, noNaN: true }),
    logitBias: fc.dictionary(token.map(String), fc.double({ min: -10, max: 10, noNaN: true }), { maxKeys: 4 }),
    seed: fc.maxSafeInteger(),
  },
  { requiredKeys: [] },
)

test('whatever the options, only tokens come that the formulas leave, one after the other', () => {
  fc.assert(
    fc.property(
      anyLogits,
      anyOptions,
      fc.option(fc.uniqueArray(token, { minLength: 1 })),
      (logits, options, allowed) => {
        const possible = (id: number) => logits[id] > -Infinity
        fc.pre(allowed === null || allowed.some(possible))
        const mask = allowed ? createMask({ type: 'tokens', allowed }, vocabSize) : undefined
        const sampler = new Sampler(options, vocabSize, mask)
        // A sum in another order may round the other way exactly at the edge of top-p and min-p.
        const lenient = {
          ...options,
          topP: Math.min(1, (options.topP ?? 1) + 1e-9),
          minP: (options.minP ?? 0) * (1 - 1e-9),
        }
        const generated: number[] = []
        for (let i = 0; i < 12; i++) {
          const sampled = sampler.sample(logits).token
          const expected = plainDistribution(logits, lenient, generated, allowed ?? undefined)
          assert.ok(expected.has(sampled), `${sampled} is not among ${[...expected.keys()]}`)
          generated.push(sampled)
        }
      },
    ),
    { numRuns: 500, seed: 1 },
  )
})

test('the logits are left as they are', () => {
  const logits = noise(50, 3)
  const copy = logits.slice()
  const sampler = new Sampler({ logitBias: { 3: 5 }, presencePenalty: 1, topK: 4, logprobs: 3, seed: 1 }, 50)
  for (let i = 0; i < 20; i++) sampler.sample(logits)
  assert.deepEqual(logits, copy)
})

test('temperature 0 takes the likeliest, ties to the lowest id, whatever top-k, top-p and min-p say', () => {
  const logits = Float32Array.of(1, 5, 2, 5, 5, 0)
  for (const others of [{}, { topK: 2 }, { topP: 0.1 }, { minP: 1 }]) {
    const sampler = new Sampler({ temperature: 0, ...others }, 6)
    for (let i = 0; i < 5; i++) assert.equal(sampler.sample(logits).token, 1)
  }
  assert.equal(new Sampler({ temperature: 0, logitBias: { 4: 0.5 } }, 6).sample(logits).token, 4)
})

test('the same seed gives the same tokens, another seed others; without a seed they differ each time', () => {
  const draw = (options: SamplingOptions) => {
    const sampler = new Sampler(options, 1000)
    return Array.from({ length: 40 }, (_, i) => sampler.sample(noise(1000, i)).token).join()
  }
  const seeds = [0, 1, -1, 2 ** 32, 2 ** 32 + 1, -(2 ** 40), Number.MAX_SAFE_INTEGER]
  for (const seed of seeds) assert.equal(draw({ seed }), draw({ seed }))
  assert.equal(new Set(seeds.map(seed => draw({ seed }))).size, seeds.length)
  assert.notEqual(draw({}), draw({}))
})

test('options that leave a token out do not change which random number the next one takes', () => {
  const logits = noise(30, 4)
  const plain = new Sampler({ seed: 9 }, 30)
  const greedyFirst = new Sampler({ seed: 9, temperature: 0 }, 30)
  plain.sample(logits)
  greedyFirst.sample(logits)
  const expected = plain.sample(logits).token
  const allOfThem = new Sampler({ seed: 9, topK: 30, topP: 1, minP: 0 }, 30)
  allOfThem.sample(logits)
  assert.equal(typeof allOfThem.sample(logits).token, 'number')
  const again = new Sampler({ seed: 9 }, 30)
  again.sample(noise(30, 99))
  assert.equal(again.sample(logits).token, expected)
})

test('log-probabilities are those of the unmodified distribution', () => {
  const logits = noise(40, 6)
  const all = plainDistribution(logits, {})
  const options: SamplingOptions = {
    ...{ temperature: 0.2, topK: 3, topP: 0.5, minP: 0.1, presencePenalty: 2, logitBias: { 7: 50, 9: 50 }, seed: 3 },
    logprobs: 5,
  }
  const allowed = [7, 9, 11]
  const sampler = new Sampler(options, 40, createMask({ type: 'tokens', allowed }, 40))
  for (let i = 0; i < 10; i++) {
    const { token, logprob, topLogprobs } = sampler.sample(logits)
    const near = (got: number, id: number) =>
      assert.ok(Math.abs(got - Math.log(all.get(id)!)) < 1e-12, `token ${id}: ${got}`) // float64 sums in two orders
    near(logprob!, token)
    assert.deepEqual(
      topLogprobs!.map(top => top.token),
      [...all.keys()].slice(0, 5),
    )
    for (const top of topLogprobs!) near(top.logprob, top.token)
  }
})

test('logprobs 0 asks for the token alone, none for nothing, more than there are for all', () => {
  const logits = noise(5, 7)
  assert.deepEqual(Object.keys(new Sampler({ logprobs: 0 }, 5).sample(logits)), ['token', 'logprob'])
  assert.deepEqual(Object.keys(new Sampler({}, 5).sample(logits)), ['token'])
  assert.equal(new Sampler({ logprobs: 9 }, 5).sample(logits).topLogprobs?.length, 5)
})

test('a mask that leaves nothing is a RequestError about the mask', () => {
  const sampler = new Sampler({}, 8, createMask({ type: 'tokens', allowed: [] }, 8))
  assert.throws(() => sampler.sample(noise(8, 1)), { name: 'RequestError', param: 'mask', status: 400 })
})

test('a mask of tokens that the model or the bias rules out leaves nothing either', () => {
  const logits = Float32Array.of(1, -Infinity, 2, 3)
  const mask = () => createMask({ type: 'tokens', allowed: [1, 2] }, 4)
  assert.equal(new Sampler({}, 4, mask()).sample(logits).token, 2)
  const sampler = new Sampler({ logitBias: { 2: -Infinity } }, 4, mask())
  assert.throws(() => sampler.sample(logits), { name: 'RequestError', param: 'mask' })
})

test('a bias that forbids every token is a RequestError about the bias', () => {
  const sampler = new Sampler({ logitBias: { 0: -Infinity, 1: -Infinity } }, 2)
  assert.throws(() => sampler.sample(Float32Array.of(1, 2)), { name: 'RequestError', param: 'logitBias' })
})

for (const logits of [
  [0, Number.NaN, 1],
  [0, Infinity, 1],
  [-Infinity, -Infinity, -Infinity],
]) {
  test(`logits ${logits} are a DeviceError, greedy or not, masked or not`, () => {
    for (const temperature of [0, 1]) {
      const mask = createMask({ type: 'tokens', allowed: [2] }, 3)
      for (const sampler of [new Sampler({ temperature }, 3), new Sampler({ temperature }, 3, mask)]) {
        assert.throws(() => sampler.sample(Float32Array.from(logits)), { name: 'DeviceError' })
      }
    }
  })
}

test('a mask is told every token that was taken, and asked once for each', () => {
  const log: string[] = []
  const bits = Uint32Array.of(0b1010)
  const mask = {
    allowed: () => {
      log.push('allowed')
      return bits
    },
    advance: (token: number) => {
      log.push(`took ${token}`)
      bits[0] = 0b0001
    },
  }
  const sampler = new Sampler({ temperature: 0 }, 4, mask)
  const logits = Float32Array.of(9, 1, 8, 2)
  assert.deepEqual([sampler.sample(logits).token, sampler.sample(logits).token], [3, 0])
  assert.deepEqual(log, ['allowed', 'took 3', 'allowed', 'took 0'])
})

test('the defaults sort nothing and copy no logits', () => {
  const logits = noise(201_088, 1)
  const forbidden = () => assert.fail('the whole vocabulary is sorted or copied')
  const typedArray = Object.getPrototypeOf(Uint32Array.prototype)
  for (const name of ['sort', 'toSorted', 'slice', 'map']) mock.method(typedArray, name, forbidden)
  mock.method(Uint32Array, 'from', forbidden)
  try {
    for (const options of [{}, { temperature: 0.7 }, { temperature: 0 }, { logprobs: 0 }]) {
      new Sampler(options, logits.length).sample(logits)
    }
    assert.throws(() => new Sampler({ minP: 0.1 }, logits.length).sample(logits), /sorted or copied/)
  } finally {
    mock.restoreAll()
  }
})

test('two hundred thousand equal logits are drawn evenly, and top-p takes the lowest ids of them', () => {
  const logits = new Float32Array(201_088)
  const all = new Sampler({ seed: 1 }, logits.length)
  const tokens = Array.from({ length: 200 }, () => all.sample(logits).token)
  const mean = tokens.reduce((a, b) => a + b) / tokens.length
  // a mean of 200 even draws deviates by 201088 / √(12 · 200) = 4105
  assert.ok(Math.abs(mean - logits.length / 2) < 4 * 4105, `mean ${mean}`)
  const half = new Sampler({ seed: 1, topP: 0.5 }, logits.length)
  for (let i = 0; i < 5; i++) assert.ok(half.sample(logits).token <= logits.length / 2)
})
