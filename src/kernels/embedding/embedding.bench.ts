import { bench, weights } from '../testing.ts'

await bench('embedding: 20b, 64 tokens', 64 * 2880, 'numbers', async (ops, device) => {
  const table = await device.load([weights([1000, 2880], 1).stored])
  const tokens = Int32Array.from({ length: 64 }, (_, i) => (i * 577) % 1000)
  return () => ops.embedding(tokens, table)
})
