import { activation, bench, noise, weights } from '../testing.ts'

for (const tokens of [1, 64]) {
  await bench(`rmsNorm: 20b, ${tokens} tokens`, tokens * 2880, 'numbers', async (ops, device) => {
    const x = await activation(ops, device, noise(tokens * 2880, 1), 2880)
    const weight = await device.load([weights([2880], 2).stored])
    return () => ops.rmsNorm(x, weight, 1e-5)
  })
}
