import assert from 'node:assert/strict'
import { test } from 'node:test'
import { activation, devices, noise, onDevice } from '../testing.ts'

const cases = [
  { name: '4 of 32, as 20b', tokens: 9, experts: 32, k: 4 },
  { name: '4 of 128, as 120b', tokens: 3, experts: 128, k: 4 },
  { name: '3 of 5', tokens: 2, experts: 5, k: 3 },
  { name: 'all of them', tokens: 2, experts: 4, k: 4 },
]

for (const device of devices) {
  for (const { name, tokens, experts, k } of cases) {
    test(`topK on ${device.name}: ${name}`, async () => {
      const logits = noise(tokens * experts, 1)
      const read = (part: 'experts' | 'weights') =>
        onDevice(device.open, async (ops, device) => ops.topK(await activation(ops, device, logits, experts), k)[part])
      const [chosen, weights] = [await read('experts'), await read('weights')]
      for (let t = 0; t < tokens; t++) {
        const row = [...logits.subarray(t * experts, (t + 1) * experts)]
        const best = row
          .map((_, e) => e)
          .sort((a, b) => row[b] - row[a])
          .slice(0, k)
        assert.deepEqual([...chosen.subarray(t * k, (t + 1) * k)], best)
        const total = best.reduce((sum, e) => sum + Math.exp(row[e]), 0)
        for (const [i, e] of best.entries()) assert.ok(Math.abs(weights[t * k + i] - Math.exp(row[e]) / total) <= 1e-6)
      }
    })
  }

  test(`topK on ${device.name}: equal logits go to the lower index`, async () => {
    const logits = Float32Array.of(1, 2, 2, 0, 2, 1)
    const chosen = await onDevice(device.open, async (ops, device) => {
      return ops.topK(await activation(ops, device, logits, 6), 4).experts
    })
    assert.deepEqual([...chosen], [1, 2, 4, 0])
  })

  test(`topK on ${device.name}: logits that overflow exp alone do not overflow the weights`, async () => {
    const weights = await onDevice(device.open, async (ops, device) => {
      return ops.topK(await activation(ops, device, Float32Array.of(1000, 999, -1000, 0), 4), 2).weights
    })
    assert.ok(Math.abs(weights[0] - 1 / (1 + Math.exp(-1))) <= 1e-6)
  })
}
