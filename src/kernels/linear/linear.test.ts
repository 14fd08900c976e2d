import assert from 'node:assert/strict'
import { test } from 'node:test'
import { activation, devices, nmse, noise, onDevice, weights } from '../testing.ts'

const cases = [
  { name: 'one token, one row', tokens: 1, inSize: 32, outSize: 1 },
  { name: 'sizes that no tile divides', tokens: 5, inSize: 33, outSize: 7 },
  { name: 'fewer inputs than an unrolled loop takes', tokens: 2, inSize: 3, outSize: 4 },
  { name: 'the qkv product of 20b, a tenth of its rows', tokens: 3, inSize: 2880, outSize: 512 },
  { name: 'a chunk of tokens', tokens: 64, inSize: 96, outSize: 130 },
]

for (const device of devices) {
  for (const { name, tokens, inSize, outSize } of cases) {
    for (const [withBias, mayRound] of [
      [true, false],
      [false, false],
      [true, true],
    ]) {
      test(`linear on ${device.name}: ${name}${withBias ? '' : ', no bias'}${mayRound ? ', may be rounded' : ''}`, async () => {
        const x = noise(tokens * inSize, 1)
        const weight = weights([outSize, inSize], 2)
        const bias = weights([outSize], 3)
        const got = await onDevice(device.open, async (ops, device) => {
          const rows = await activation(ops, device, x, inSize)
          const [w, b] = [await device.load([weight.stored], { mayRound }), await device.load([bias.stored])]
          return withBias ? ops.linear(rows, w, b) : ops.linear(rows, w)
        })
        const right = Array.from({ length: tokens * outSize }, (_, i) => {
          const [t, o] = [Math.floor(i / outSize), i % outSize]
          let sum = withBias ? bias.values[o] : 0
          for (let k = 0; k < inSize; k++) sum += x[t * inSize + k] * weight.values[o * inSize + k]
          return sum
        })
        // Float activations where the matrix is not rounded. These weights have outliers as well: 8 bits cost as much there.
        const bound = mayRound ? 2 * device.products : 1e-11
        assert.ok(nmse(got, right) <= (device.name === 'reference' ? 1e-13 : bound), `NMSE ${nmse(got, right)}`)
      })
    }
  }
}

test('joined parts are one matrix whose rows follow each other', async () => {
  const x = noise(2 * 8, 1)
  const parts = [weights([3, 8], 2), weights([1, 8], 3), weights([2, 8], 4)]
  const whole = weights([6, 8], 5)
  whole.values.set(parts.flatMap(part => [...part.values]))
  for (const device of devices) {
    const got = await onDevice(device.open, async (ops, device) => {
      const joined = await device.load(parts.map(part => part.stored))
      assert.deepEqual(joined.shape, [6, 8])
      return ops.linear(await activation(ops, device, x, 8), joined)
    })
    const right = Array.from({ length: 12 }, (_, i) =>
      whole.values
        .subarray((i % 6) * 8, (i % 6) * 8 + 8)
        .reduce((sum, w, k) => sum + w * x[Math.floor(i / 6) * 8 + k], 0),
    )
    assert.ok(nmse(got, right) <= 1e-12, device.name)
  }
})
