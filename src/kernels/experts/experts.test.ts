import assert from 'node:assert/strict'
import { test } from 'node:test'
import { activation, devices, mxfp4Weights, nmse, noise, onDevice, weights } from '../testing.ts'
import { swiglu } from './experts.ref.ts'

const cases = [
  { name: 'one token', tokens: 1, numExperts: 8, k: 4, hiddenSize: 64, innerSize: 96 },
  { name: 'every token chooses the same experts', tokens: 6, numExperts: 4, k: 4, hiddenSize: 32, innerSize: 32 },
  { name: 'experts that no token chooses', tokens: 2, numExperts: 32, k: 2, hiddenSize: 96, innerSize: 64 },
  { name: 'the width of 20b', tokens: 2, numExperts: 2, k: 1, hiddenSize: 2880, innerSize: 64 },
]

for (const device of devices) {
  for (const { name, tokens, numExperts, k, hiddenSize, innerSize } of cases) {
    test(`experts on ${device.name}: ${name}`, async () => {
      // Gates of the size that trained ones have: larger ones would be steps, and steps make errors of any input.
      const x = noise(tokens * hiddenSize, 1).map(value => value / (10 * Math.sqrt(hiddenSize)))
      const gateUp = mxfp4Weights([numExperts, 2 * innerSize, hiddenSize], 2)
      const down = mxfp4Weights([numExperts, hiddenSize, innerSize], 3)
      const gateUpBias = weights([numExperts, 2 * innerSize], 4)
      const downBias = weights([numExperts, hiddenSize], 5)
      const router = noise(tokens * numExperts, 6)
      const got = await onDevice(device.open, async (ops, device) => {
        const routing = ops.topK(await activation(ops, device, router, numExperts), k)
        const experts = {
          gateUp: await device.loadMxfp4(gateUp.blocks, gateUp.scales),
          gateUpBias: await device.load([gateUpBias.stored]),
          down: await device.loadMxfp4(down.blocks, down.scales),
          downBias: await device.load([downBias.stored]),
        }
        return ops.experts(await activation(ops, device, x, hiddenSize), routing, experts, 7)
      })
      const right = new Float64Array(tokens * hiddenSize)
      for (let t = 0; t < tokens; t++) {
        const row = router.subarray(t * numExperts, (t + 1) * numExperts)
        const best = [...row.keys()].sort((a, b) => row[b] - row[a]).slice(0, k)
        const total = best.reduce((sum, e) => sum + Math.exp(row[e]), 0)
        for (const e of best) {
          const inner = Array.from({ length: 2 * innerSize }, (_, r) => {
            let sum = gateUpBias.values[e * 2 * innerSize + r]
            for (let i = 0; i < hiddenSize; i++) sum += gateUp.value(e, r, i) * x[t * hiddenSize + i]
            return sum
          })
          const activated = Array.from({ length: innerSize }, (_, i) => {
            const gate = Math.min(inner[2 * i], 7)
            const linear = Math.min(Math.max(inner[2 * i + 1], -7), 7)
            return (gate / (1 + Math.exp(-1.702 * gate))) * (linear + 1)
          })
          for (let r = 0; r < hiddenSize; r++) {
            let sum = downBias.values[e * hiddenSize + r]
            for (let i = 0; i < innerSize; i++) sum += down.value(e, r, i) * activated[i]
            right[t * hiddenSize + r] += (Math.exp(row[e]) / total) * sum
          }
        }
      }
      // Two products, one after the other.
      assert.ok(nmse(got, right) <= 2 * device.products, `NMSE ${nmse(got, right)}`)
    })
  }
}

test('swiglu clamps the gate above only, the linear half on both sides, and adds one to it', () => {
  const rows: [gate: number, linear: number, effectiveGate: number, effectiveLinear: number][] = [
    [1, 2, 1, 2],
    [9, 0, 7, 0],
    [-9, 0, -9, 0],
    [1, 9, 1, 7],
    [1, -9, 1, -7],
  ]
  for (const [gate, linear, g, l] of rows) {
    const [got] = swiglu(Float32Array.of(gate, linear), 7)
    assert.equal(got, Math.fround((g / (1 + Math.exp(-1.702 * g))) * (l + 1)))
  }
})
