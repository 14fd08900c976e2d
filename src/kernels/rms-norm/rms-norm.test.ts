import assert from 'node:assert/strict'
import { test } from 'node:test'
import { activation, devices, noise, onDevice, weights } from '../testing.ts'

const cases = [
  { name: 'the hidden size of 20b', tokens: 3, width: 2880, scale: 1 },
  { name: 'an odd width', tokens: 2, width: 33, scale: 1 },
  { name: 'a row so small that epsilon decides', tokens: 2, width: 64, scale: 1e-4 },
  { name: 'zeros stay zeros', tokens: 1, width: 64, scale: 0 },
  { name: 'large outliers', tokens: 2, width: 128, scale: 1e4 },
]

for (const device of devices) {
  for (const { name, tokens, width, scale } of cases) {
    test(`rmsNorm on ${device.name}: ${name}`, async () => {
      const x = noise(tokens * width, 1).map(value => value * scale)
      const weight = weights([width], 2)
      const got = await onDevice(device.open, async (ops, device) =>
        ops.rmsNorm(await activation(ops, device, x, width), await device.load([weight.stored]), 1e-5),
      )
      for (let t = 0; t < tokens; t++) {
        const row = x.subarray(t * width, (t + 1) * width)
        const root = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0) / width + 1e-5)
        for (let i = 0; i < width; i++) {
          const right = (row[i] / root) * weight.values[i]
          assert.ok(Math.abs(got[t * width + i] - right) <= 1e-5 * Math.abs(right), `row ${t}, column ${i}`)
        }
      }
    })
  }
}
