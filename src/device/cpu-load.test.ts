import assert from 'node:assert/strict'
import { test } from 'node:test'
import { mxfp4Weights, stored } from '../kernels/testing.ts'
import { CpuDevice } from './cpu.node.ts'
import { loadNative, type Native } from './native.node.ts'

const native = loadNative()
const skip = typeof native === 'string' ? native : false

test('a scale of 255, which is no number, is refused with the place where it lies', { skip }, async () => {
  const device = new CpuDevice(native as Native)
  const { blocks, scales } = mxfp4Weights([4, 64, 96], 1)
  const bytes = await scales.read()
  for (const [at, byte] of [
    [700, 255],
    [301, 255],
    [302, 254],
  ]) {
    bytes[at] = byte
  }
  const damaged = stored('block.3.mlp.mlp1_weight.scales', [...scales.shape], bytes)
  await assert.rejects(device.loadMxfp4(blocks, damaged), {
    name: 'CheckpointError',
    message: /^block\.3\.mlp\.mlp1_weight\.scales has no number at byte 301: .*download the model again/,
  })
  bytes[301] = bytes[700] = 254
  await device.loadMxfp4(blocks, stored('scales', [...scales.shape], bytes))
  device.close()
})
