import assert from 'node:assert/strict'
import { test } from 'node:test'
import { activation, devices, noise, onDevice, weights } from '../testing.ts'

for (const device of devices) {
  test(`embedding on ${device.name}: rows of bfloat16 come out exactly, also the first, the last and one twice`, async () => {
    const table = weights([7, 33], 1)
    const tokens = [6, 0, 3, 3]
    const got = await onDevice(device.open, async (ops, device) => {
      return ops.embedding(Int32Array.from(tokens), await device.load([table.stored]))
    })
    assert.deepEqual(
      [...got],
      tokens.flatMap(token => [...table.values.subarray(token * 33, (token + 1) * 33)]),
    )
  })

  test(`rows on ${device.name}: picks and reorders rows of an activation`, async () => {
    const x = noise(5 * 4, 1)
    const got = await onDevice(device.open, async (ops, device) => {
      return ops.rows(await activation(ops, device, x, 4), Int32Array.of(4, 1, 1))
    })
    assert.deepEqual(
      [...got],
      [4, 1, 1].flatMap(row => [...x.subarray(row * 4, row * 4 + 4)]),
    )
  })

  test(`add on ${device.name}: adds number by number`, async () => {
    const [x, y] = [noise(12, 1), noise(12, 2)]
    const got = await onDevice(device.open, async (ops, device) => {
      return ops.add(await activation(ops, device, x, 4), await activation(ops, device, y, 4))
    })
    assert.deepEqual([...got], [...x.map((value, i) => value + y[i])])
  })
}
