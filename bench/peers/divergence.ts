/**
 * How far node-llama-cpp, and a device of ours, are from the reference device on the same weights: the Kullback–Leibler
 * divergence of the next token's distribution behind each of some random tokens, in nats. A small one also shows that
 * the GGUF file holds the weights of the folder.
 *
 *   node --conditions=tutti-source bench/peers/divergence.ts FOLDER MODEL.gguf [--tokens N] [--device cpu]
 *        [--precision fast | exact]
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { openFolder } from '../../src/checkpoint/source.node.ts'
import { openDevice } from '../../src/device/open.node.ts'
import { ReferenceDevice } from '../../src/device/reference.ts'
import type { Device } from '../../src/kernels/ops.ts'
import { openModel } from '../../src/open-engine.ts'
import { availableMemory } from '../../src/platform.node.ts'
import { prompt } from './measures.ts'

/** Row by row: logits in, their logarithms of probability out. */
function logSoftmax(logits: Float32Array, vocabSize: number): Float64Array {
  const out = Float64Array.from(logits)
  for (let begin = 0; begin < out.length; begin += vocabSize) {
    const row = out.subarray(begin, begin + vocabSize)
    const largest = row.reduce((a, b) => Math.max(a, b))
    const total = Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - largest), 0)) + largest
    for (let i = 0; i < row.length; i++) row[i] -= total
  }
  return out
}

/** The mean over rows of Σ p · (ln p − ln q), and of how often both find the same token the likeliest. */
export function divergence(p: Float64Array, q: Float64Array, vocabSize: number): { mean: number; sameTop: number } {
  let [sum, same] = [0, 0]
  const rows = p.length / vocabSize
  for (let begin = 0; begin < p.length; begin += vocabSize) {
    let [topP, topQ] = [begin, begin]
    for (let i = begin; i < begin + vocabSize; i++) {
      sum += Math.exp(p[i]) * (p[i] - q[i])
      if (p[i] > p[topP]) topP = i
      if (q[i] > q[topQ]) topQ = i
    }
    if (topP === topQ) same++
  }
  return { mean: sum / rows, sameTop: same / rows }
}

async function ours(folder: string, device: Device, tokensOf: (vocabSize: number) => number[]) {
  const opened = await openModel({ folder: await openFolder(folder), device, availableMemory: availableMemory() })
  const { model, maxChunk } = opened
  const { vocabSize } = model.config
  const tokens = tokensOf(vocabSize)
  const cache = model.newCache(maxChunk)
  const logits = new Float32Array(tokens.length * vocabSize)
  for (let start = 0; start < tokens.length; start += maxChunk) {
    const chunk = { cache, tokens: tokens.slice(start, start + maxChunk), start, logits: 'all' as const }
    logits.set((await model.forward([chunk]))!, start * vocabSize)
  }
  model.close()
  return { tokens, vocabSize, logs: logSoftmax(logits, vocabSize) }
}

function peer(gguf: string, tokens: readonly number[]): Float64Array {
  const folder = mkdtempSync(join(tmpdir(), 'tutti-divergence-'))
  try {
    const out = join(folder, 'probabilities')
    const script = fileURLToPath(new URL('llama.ts', import.meta.url))
    const args = ['--conditions=tutti-source', script, gguf, '--probabilities', JSON.stringify(tokens), out]
    execFileSync(process.execPath, args, { stdio: ['ignore', 'ignore', 'inherit'] })
    return Float64Array.from(new Float32Array(new Uint8Array(readFileSync(out)).buffer), Math.log)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      tokens: { type: 'string', default: '64' },
      device: { type: 'string' },
      precision: { type: 'string' },
    },
  })
  const [folder, gguf] = positionals
  if (!folder || !gguf) throw new Error('give a folder and the GGUF file of the same weights')
  const tokensOf = (vocabSize: number) => prompt(Number(values.tokens), 1, vocabSize)
  const reference = await ours(folder, new ReferenceDevice(), tokensOf)
  const { tokens, vocabSize, logs } = reference
  const print = (name: string, other: Float64Array) => {
    const { mean, sameTop } = divergence(logs, other, vocabSize)
    console.log(
      `${name}: divergence ${mean.toExponential(2)}, the same likeliest token ${(100 * sameTop).toFixed(1)} %`,
    )
  }
  print('node-llama-cpp', peer(gguf, tokens))
  if (values.device === undefined) return
  const options = { device: values.device as 'cpu', precision: values.precision as 'fast' | 'exact' | undefined }
  const { device } = openDevice(options)
  print(device.name, (await ours(folder, device, tokensOf)).logs)
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  await main().catch(error => {
    console.error(error.message)
    process.exitCode = 1
  })
}
