import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { AttentionShape, LayerCache } from '../ops.ts'
import { activation, devices, nmse, noise, rounded, stored } from '../testing.ts'

/** Sequences are fed in chunks: one list of chunk lengths each; round r holds the r-th chunk of every sequence. */
const cases = [
  { name: 'one token sees itself and the sink', window: Infinity, heads: [2, 1], headDim: 8, sequences: [[1]] },
  {
    name: 'full attention, eight heads to a key',
    window: Infinity,
    heads: [16, 2],
    headDim: 64,
    sequences: [[40, 1, 1]],
  },
  {
    name: 'window 128 at 126 to 130 and beyond two rings',
    window: 128,
    heads: [2, 1],
    headDim: 16,
    sequences: [[126, 1, 1, 1, 1, 128, 40]],
  },
  { name: 'window 8, chunks larger than it', window: 8, heads: [4, 2], headDim: 8, sequences: [[30, 3, 30, 1]] },
  {
    name: 'three sequences of different age in one batch',
    window: 5,
    heads: [4, 2],
    headDim: 8,
    sequences: [
      [9, 1, 4],
      [2, 7, 1],
      [1, 1, 20],
    ],
  },
  {
    name: 'the same without a window',
    window: Infinity,
    heads: [4, 2],
    headDim: 8,
    sequences: [
      [9, 1, 4],
      [2, 7, 1],
      [70, 1, 20],
    ],
  },
]

for (const device of devices) {
  for (const { name, window, heads, headDim, sequences } of cases) {
    for (const sinkSize of [0, 20, -100]) {
      test(`attention on ${device.name}: ${name}, sinks about ${sinkSize}`, async () => {
        const [numAttentionHeads, numKeyValueHeads] = heads
        const shape: AttentionShape = { numAttentionHeads, numKeyValueHeads, headDim, window }
        const width = (numAttentionHeads + 2 * numKeyValueHeads) * headDim
        const sinks = noise(numAttentionHeads, 9).map(value => value + sinkSize)
        const lengths = sequences.map(chunks => chunks.reduce((a, b) => a + b))
        const inputs = lengths.map((length, s) => rounded(noise(length * width, 10 + s).map(value => value / 2)))
        const opened = device.open()
        const caches = sequences.map(chunks => opened.newCache(shape, Math.max(...chunks)))
        const outputs: number[][] = sequences.map(() => [])
        for (const round of sequences[0].keys()) {
          const starts = caches.map(cache => cache.length)
          const counts = sequences.map(chunks => chunks[round])
          const rows = inputs.map((x, s) => x.subarray(starts[s] * width, (starts[s] + counts[s]) * width))
          const out = await attend(opened, rows, sinks, caches, starts, counts, shape, width)
          for (const [s, cache] of caches.entries()) {
            outputs[s].push(...out.splice(0, counts[s] * numAttentionHeads * headDim))
            cache.commit(starts[s] + counts[s])
          }
        }
        opened.close()
        for (const [s, x] of inputs.entries()) {
          // Rounding of the result; float32 sums and exponentials on the cpu. Caches hold bfloat16, which these numbers are.
          const off = nmse(outputs[s], plainAttention(x, sinks, shape))
          assert.ok(off <= (device.name === 'reference' ? 1e-13 : 1e-10), `sequence ${s}: NMSE ${off}`)
        }
      })
    }
  }
}

async function attend(
  device: ReturnType<(typeof devices)[0]['open']>,
  rows: Float32Array[],
  sinks: Float32Array,
  caches: LayerCache[],
  starts: number[],
  counts: number[],
  shape: AttentionShape,
  width: number,
): Promise<number[]> {
  const ops = device.begin()
  const qkv = await activation(ops, device, Float32Array.from(rows.flatMap(row => [...row])), width)
  const held = await device.load([stored('sinks', [sinks.length], sinks)])
  let row = 0
  const pieces = counts.map((count, s) => ({ row: (row += count) - count, count, start: starts[s] }))
  const out = [...(await ops.read(ops.attention(qkv, held, pieces, caches, shape)))]
  ops.end()
  return out
}

/** The formula, over a whole sequence at once. */
function plainAttention(qkv: Float32Array, sinks: Float32Array, shape: AttentionShape): number[] {
  const { numAttentionHeads, numKeyValueHeads, headDim, window } = shape
  const width = (numAttentionHeads + 2 * numKeyValueHeads) * headDim
  const length = qkv.length / width
  const out: number[] = []
  const at = (t: number, head: number, i: number) => qkv[t * width + head * headDim + i]
  for (let t = 0; t < length; t++) {
    for (let head = 0; head < numAttentionHeads; head++) {
      const key = numAttentionHeads + Math.floor((head * numKeyValueHeads) / numAttentionHeads)
      const value = key + numKeyValueHeads
      const seen = Array.from({ length: t + 1 }, (_, p) => p).filter(p => t - p < window)
      const scores = seen.map(p => {
        let sum = 0
        for (let i = 0; i < headDim; i++) sum += at(t, head, i) * at(p, key, i)
        return sum / Math.sqrt(headDim)
      })
      const max = Math.max(...scores, sinks[head])
      const total = scores.reduce((sum, score) => sum + Math.exp(score - max), Math.exp(sinks[head] - max))
      for (let i = 0; i < headDim; i++) {
        out.push(seen.reduce((sum, p, n) => sum + (Math.exp(scores[n] - max) / total) * at(p, value, i), 0))
      }
    }
  }
  return out
}
