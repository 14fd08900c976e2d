import { activation, bench, noise } from '../testing.ts'

for (const [model, numExperts] of [
  ['20b', 32],
  ['120b', 128],
] as const) {
  await bench(`topK: ${model}, 64 tokens`, 64 * numExperts, 'numbers', async (ops, device) => {
    const logits = await activation(ops, device, noise(64 * numExperts, 1), numExperts)
    return () => ops.topK(logits, 4).weights
  })
}
