import assert from 'node:assert/strict'
import { test } from 'node:test'
import { activation, devices, noise, onDevice } from '../testing.ts'

const cases = [
  {
    name: 'heads of 64, far positions',
    numAttentionHeads: 4,
    numKeyValueHeads: 2,
    headDim: 64,
    positions: [0, 1, 131071],
  },
  {
    name: 'heads of 32, positions out of order',
    numAttentionHeads: 3,
    numKeyValueHeads: 1,
    headDim: 32,
    positions: [9, 2],
  },
]

for (const device of devices) {
  for (const { name, positions, ...shape } of cases) {
    test(`rope on ${device.name}: ${name}`, async () => {
      const { numAttentionHeads, numKeyValueHeads, headDim } = shape
      const half = headDim / 2
      const heads = numAttentionHeads + 2 * numKeyValueHeads
      const width = heads * headDim
      const qkv = noise(positions.length * width, 1)
      const rotary = {
        frequencies: Float64Array.from({ length: half }, (_, i) => 150000 ** (-i / half)),
        concentration: 1.3,
      }
      const got = await onDevice(device.open, async (ops, device) =>
        ops.rope(await activation(ops, device, qkv, width), Int32Array.from(positions), rotary, {
          ...shape,
          window: Infinity,
        }),
      )
      for (const [t, position] of positions.entries()) {
        for (let head = 0; head < heads; head++) {
          const at = t * width + head * headDim
          for (let i = 0; i < half; i++) {
            const [a, b] = [qkv[at + i], qkv[at + half + i]]
            const angle = position * rotary.frequencies[i]
            const [cos, sin] = [Math.cos(angle) * 1.3, Math.sin(angle) * 1.3]
            const isValue = head >= numAttentionHeads + numKeyValueHeads
            const right = isValue ? [a, b] : [a * cos - b * sin, b * cos + a * sin]
            const size = Math.hypot(a, b)
            assert.ok(Math.abs(got[at + i] - right[0]) <= 1e-6 * size) // float32 cosine, sine and result
            assert.ok(Math.abs(got[at + half + i] - right[1]) <= 1e-6 * size)
          }
        }
      }
    })
  }
}
