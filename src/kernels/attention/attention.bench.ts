import { activation, bench, noise, stored } from '../testing.ts'

const heads = { numAttentionHeads: 64, numKeyValueHeads: 8, headDim: 64 }
const width = (64 + 2 * 8) * 64

for (const { name, held, window } of [
  { name: '20b, decode at 128, windowed', held: 128, window: 128 },
  { name: '20b, decode at 2048, full', held: 2048, window: Infinity },
]) {
  const work = 2 * Math.min(held + 1, window) * heads.numAttentionHeads * heads.headDim
  await bench(`attention: ${name}`, work, 'multiply-adds', async (ops, device) => {
    const shape = { ...heads, window }
    const cache = device.newCache(shape, held)
    const sinks = await device.load([stored('sinks', [64], noise(64, 1))])
    const past = await activation(ops, device, noise(held * width, 2), width)
    await ops.read(ops.attention(past, sinks, [{ row: 0, count: held, start: 0 }], [cache], shape))
    cache.commit(held)
    const token = await activation(ops, device, noise(width, 3), width)
    return () => ops.attention(token, sinks, [{ row: 0, count: 1, start: held }], [cache], shape)
  })
}
