/**
 * How long one token takes that interrupts the prefill of a chunk, from asking to its logits, beside one that runs alone;
 * and how much longer that prefill takes than itself alone and what interrupted it.
 *
 *   node --conditions=tutti-source bench/urgent.ts [FOLDER] [--tokens N] [--rounds N] [--json]
 *
 * FOLDER: a checkpoint, by default nano's; the device is the cpu. Tokens alone and beside a prefill are taken in turn,
 * in rounds of N, 20 ms apart.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { machine } from '../scripts/bench.ts'
import { openFolder } from '../src/checkpoint/source.node.ts'
import { openDevice } from '../src/device/open.node.ts'
import type { Transformer } from '../src/model/transformer.ts'
import { openModel } from '../src/open-engine.ts'
import { availableMemory, locateModel } from '../src/platform.node.ts'
import { prompt } from './peers/measures.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    tokens: { type: 'string', default: '20' },
    rounds: { type: 'string', default: '5' },
    json: { type: 'boolean', default: false },
  },
})
const held = 64 // tokens before those that are measured

const sorted = (numbers: readonly number[]) => numbers.toSorted((a, b) => a - b)
const median = (numbers: readonly number[]) => sorted(numbers)[Math.floor(numbers.length / 2)]
const percentile99 = (numbers: readonly number[]) => sorted(numbers)[Math.ceil(numbers.length * 0.99) - 1]

class Bench {
  readonly #model: Transformer
  readonly #maxChunk: number
  readonly #tokens: number[]

  constructor(model: Transformer, maxChunk: number) {
    this.#model = model
    this.#maxChunk = maxChunk
    this.#tokens = prompt(maxChunk, 1, model.config.vocabSize)
  }

  /** Milliseconds of a whole chunk. */
  async prefill(): Promise<number> {
    const cache = this.#model.newCache(this.#maxChunk)
    const begun = performance.now()
    await this.#model.forward([{ cache, tokens: this.#tokens, start: 0, logits: 'none' }])
    const ms = performance.now() - begun
    cache.dispose()
    return ms
  }

  /** Milliseconds of each of `count` tokens; `beside`: chunks run all the while, one after the other. */
  async decode(count: number, beside: boolean): Promise<{ tokens: number[]; chunks: number[] }> {
    const cache = this.#model.newCache(this.#maxChunk)
    await this.#model.forward([{ cache, tokens: this.#tokens.slice(0, held), start: 0, logits: 'none' }])
    let isOver = false
    const chunks: number[] = [] // each without the tokens that interrupted it
    let interrupted = 0
    const prefills = async () => {
      while (beside && !isOver) {
        const before = interrupted
        const ms = await this.prefill()
        if (!isOver) chunks.push(ms - (interrupted - before))
      }
    }
    const running = prefills()
    const tokens: number[] = []
    for (let i = 0; i < count; i++) {
      await sleep(20)
      const begun = performance.now()
      const token = { cache, tokens: [this.#tokens[i]], start: held + i, logits: 'last' as const }
      await this.#model.forward([token], undefined, { urgent: true })
      const ms = performance.now() - begun
      tokens.push(ms)
      interrupted += ms
    }
    isOver = true
    await running
    cache.dispose()
    return { tokens, chunks }
  }
}

const { device } = openDevice({ device: 'cpu' })
const folder = await openFolder(locateModel(positionals[0] ?? 'nano'))
const opened = await openModel({ folder, device, availableMemory: availableMemory(), contextLength: 1024 })
const { model, maxChunk } = opened
const bench = new Bench(model, maxChunk)
const [alone, beside, chunks, chunksAlone]: number[][] = [[], [], [], []]
await bench.decode(5, true) // what is used for the first time takes longer
for (let round = 0; round < Number(values.rounds); round++) {
  chunksAlone.push(await bench.prefill())
  alone.push(...(await bench.decode(Number(values.tokens), false)).tokens)
  const { tokens, chunks: some } = await bench.decode(Number(values.tokens), true)
  beside.push(...tokens)
  chunks.push(...some)
}
model.close()

console.error(`${machine()}; ${device.name}`)
for (const [what, ms] of Object.entries({
  'a token alone': alone,
  'a token that interrupts': beside,
  [`a chunk of ${maxChunk} alone`]: chunksAlone,
  'a chunk, less its interruptions': chunks,
})) {
  if (ms.length === 0) continue
  const line = { what, value: median(ms), p99: percentile99(ms), unit: 'ms', n: ms.length }
  const text = `${what.padEnd(32)} ${line.value.toFixed(2)} ms, p99 ${line.p99.toFixed(2)} ms (${ms.length})`
  console.log(values.json ? JSON.stringify(line) : text)
}
const later = median(beside) - median(alone)
console.log(
  values.json ? JSON.stringify({ what: 'later', value: later, unit: 'ms' }) : `later by ${later.toFixed(2)} ms`,
)
