import { activation, bench, noise } from '../testing.ts'

const shape = { numAttentionHeads: 64, numKeyValueHeads: 8, headDim: 64, window: Infinity }
const width = (64 + 2 * 8) * 64
const rotary = { frequencies: Float64Array.from({ length: 32 }, (_, i) => 150000 ** (-i / 32)), concentration: 1.3 }

for (const tokens of [1, 64]) {
  await bench(`rope: 20b, ${tokens} tokens`, tokens * width, 'numbers', async (ops, device) => {
    const qkv = await activation(ops, device, noise(tokens * width, 1), width)
    const positions = Int32Array.from({ length: tokens }, (_, i) => 1000 + i)
    return () => ops.rope(qkv, positions, rotary, shape)
  })
}
