import { activation, bench, noise, rawMxfp4, weights } from '../testing.ts'

const hiddenSize = 2880
const innerSize = 2880
const k = 4

for (const { name, tokens, numExperts } of [
  { name: '20b, decode', tokens: 1, numExperts: 4 },
  { name: '20b, 16 tokens on 4 experts', tokens: 16, numExperts: 4 },
]) {
  const work = tokens * k * 3 * hiddenSize * innerSize
  await bench(`experts: ${name}`, work, 'multiply-adds', async (ops, device) => {
    const gateUp = rawMxfp4([numExperts, 2 * innerSize, hiddenSize], 1)
    const down = rawMxfp4([numExperts, hiddenSize, innerSize], 2)
    const experts = {
      gateUp: await device.loadMxfp4(gateUp.blocks, gateUp.scales),
      gateUpBias: await device.load([weights([numExperts, 2 * innerSize], 3).stored]),
      down: await device.loadMxfp4(down.blocks, down.scales),
      downBias: await device.load([weights([numExperts, hiddenSize], 4).stored]),
    }
    const x = await activation(ops, device, noise(tokens * hiddenSize, 5), hiddenSize)
    const routing = ops.topK(await activation(ops, device, noise(tokens * numExperts, 6), numExperts), k)
    return () => ops.experts(x, routing, experts, 7)
  })
}
