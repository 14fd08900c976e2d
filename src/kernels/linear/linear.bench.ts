import { activation, bench, noise, weights } from '../testing.ts'

const cases = [
  { name: '20b qkv, decode', tokens: 1, inSize: 2880, outSize: 5120 },
  { name: '20b qkv, 64 tokens', tokens: 64, inSize: 2880, outSize: 5120 },
  { name: '20b router, 64 tokens', tokens: 64, inSize: 2880, outSize: 32 },
  { name: '20b unembedding, a fortieth of its rows', tokens: 1, inSize: 2880, outSize: 5027 },
  { name: 'nano unembedding', tokens: 1, inSize: 96, outSize: 201088 },
]

for (const { name, tokens, inSize, outSize } of cases) {
  await bench(`linear: ${name}`, tokens * inSize * outSize, 'multiply-adds', async (ops, device) => {
    const x = await activation(ops, device, noise(tokens * inSize, 1), inSize)
    const weight = await device.load([weights([outSize, inSize], 2).stored])
    return () => ops.linear(x, weight)
  })
}
