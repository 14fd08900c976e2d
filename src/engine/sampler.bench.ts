import { seededRandom } from '../base/random.ts'
import type { SamplingOptions } from './engine.ts'
import { createMask } from './mask.ts'
import { Sampler } from './sampler.ts'

/** Milliseconds that sampling adds to a token of gpt-oss: 201,088 logits, a few of them far above a bell of the others. */
const vocabSize = 201_088
const random = seededRandom(1)
const bell = () => Array.from({ length: 12 }, random).reduce((a, b) => a + b) - 6
const logits = Float32Array.from({ length: vocabSize }, () => 2.5 * bell())
for (let i = 0; i < 50; i++) logits[Math.floor(random() * vocabSize)] += 16 * random()
const mask = () => createMask({ type: 'tokens', allowed: Array.from({ length: 5000 }, (_, i) => i * 40) }, vocabSize)

const cases: { name: string; options: SamplingOptions; masked?: boolean }[] = [
  { name: 'defaults', options: {} },
  { name: 'greedy', options: { temperature: 0 } },
  { name: 'top-p .95', options: { topP: 0.95 } },
  { name: 'top-k 40', options: { topK: 40 } },
  { name: 'top-p .95, top-k 40', options: { topP: 0.95, topK: 40 } },
  { name: 'min-p .05', options: { minP: 0.05 } },
  { name: 'top-p .95, temperature 2', options: { topP: 0.95, temperature: 2 } },
  { name: 'penalties and bias', options: { frequencyPenalty: 1, logitBias: { 5: 1 } } },
  { name: 'a mask of 5,000', options: {}, masked: true },
  { name: '20 logprobs', options: { logprobs: 20 } },
]
for (const { name, options, masked } of cases) {
  const sampler = new Sampler({ ...options, seed: 1 }, vocabSize, masked ? mask() : undefined)
  for (let i = 0; i < 20; i++) sampler.sample(logits) // compiled
  const times = Array.from({ length: 100 }, () => {
    const start = performance.now()
    sampler.sample(logits)
    return performance.now() - start
  }).sort((a, b) => a - b)
  const [best, median] = [times[0], times[50]].map(time => time.toFixed(2))
  console.log(`${name.padEnd(26)} ${best} ms a token at best, ${median} as the median of 100`)
}
