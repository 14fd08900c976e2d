/**
 * How far node-llama-cpp, and a device of ours, are from the reference device on the same weights: the Kullback–Leibler
 * divergence of the next token's distribution behind each of some random tokens, in nats. A small one also shows that
 * the GGUF file holds the weights of the folder.
 *
 *   node --conditions=tutti-source bench/peers/divergence.ts FOLDER MODEL.gguf [--tokens N] [--prompts N] [--device cpu]
 *        [--precision fast | exact] [--cache bf16 | q8]
 *
 * --prompts: so many sequences of random tokens, each run for itself. With a device of ours the ratio of the two means,
 * ours by the peer's, is printed too.
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { openFolder } from '../../src/checkpoint/source.node.ts'
import { openDevice } from '../../src/device/open.node.ts'
import type { DeviceOptions } from '../../src/device/options.ts'
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

async function open(folder: string, device: Device) {
  const opened = await openModel({ folder: await openFolder(folder), device, availableMemory: availableMemory() })
  const { model, maxChunk } = opened
  const { vocabSize } = model.config
  return {
    vocabSize,
    close: () => model.close(),
    /** Logarithms of probability behind each token, [tokens, vocabSize]. */
    async expects(tokens: readonly number[]): Promise<Float64Array> {
      const cache = model.newCache(maxChunk)
      const logits = new Float32Array(tokens.length * vocabSize)
      for (let start = 0; start < tokens.length; start += maxChunk) {
        const chunk = { cache, tokens: tokens.slice(start, start + maxChunk), start, logits: 'all' as const }
        logits.set((await model.forward([chunk]))!, start * vocabSize)
      }
      cache.dispose()
      return logSoftmax(logits, vocabSize)
    },
  }
}

/** The same of node-llama-cpp. It sums its probabilities in float32: they are made to sum to 1 again. */
function peerExpects(gguf: string, tokens: readonly number[], vocabSize: number): Float64Array {
  const folder = mkdtempSync(join(tmpdir(), 'tutti-divergence-'))
  try {
    const out = join(folder, 'probabilities')
    const script = fileURLToPath(new URL('llama.ts', import.meta.url))
    const args = ['--conditions=tutti-source', script, gguf, '--probabilities', JSON.stringify(tokens), out]
    execFileSync(process.execPath, args, { stdio: ['ignore', 'ignore', 'inherit'] })
    return logSoftmax(new Float32Array(new Uint8Array(readFileSync(out)).buffer).map(Math.log), vocabSize)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Means over prompts of one length. */
class Differences {
  readonly #each: { mean: number; sameTop: number }[] = []

  add(right: Float64Array, got: Float64Array, vocabSize: number): void {
    this.#each.push(divergence(right, got, vocabSize))
  }

  get mean(): number {
    return this.#each.reduce((sum, { mean }) => sum + mean, 0) / this.#each.length
  }

  toString(): string {
    const means = this.#each.map(({ mean }) => mean)
    const sameTop = this.#each.reduce((sum, each) => sum + each.sameTop, 0) / this.#each.length
    const range = `${Math.min(...means).toExponential(2)} to ${Math.max(...means).toExponential(2)} by prompt`
    return `divergence ${this.mean.toExponential(2)} (${range}), the same likeliest token ${(100 * sameTop).toFixed(1)} %`
  }
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      tokens: { type: 'string', default: '64' },
      prompts: { type: 'string', default: '1' },
      device: { type: 'string' },
      precision: { type: 'string' },
      cache: { type: 'string' },
    },
  })
  const [folder, gguf] = positionals
  if (!folder || !gguf) throw new Error('give a folder and the GGUF file of the same weights')
  const reference = await open(folder, new ReferenceDevice())
  const device = values.device === undefined ? undefined : openDevice(values as DeviceOptions).device
  const ours = device && (await open(folder, device))
  const { vocabSize } = reference
  const [peerDifferences, ourDifferences] = [new Differences(), new Differences()]
  for (let seed = 1; seed <= Number(values.prompts); seed++) {
    const tokens = prompt(Number(values.tokens), seed, vocabSize)
    const right = await reference.expects(tokens)
    peerDifferences.add(right, peerExpects(gguf, tokens, vocabSize), vocabSize)
    if (ours) ourDifferences.add(right, await ours.expects(tokens), vocabSize)
  }
  reference.close()
  ours?.close()
  console.log(`node-llama-cpp: ${peerDifferences}`)
  if (!device) return
  console.log(`${device.name}: ${ourDifferences}`)
  console.log(`ratio: ${(ourDifferences.mean / peerDifferences.mean).toFixed(3)}`)
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  await main().catch(error => {
    console.error(error.message)
    process.exitCode = 1
  })
}
