import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Transformer } from '../../src/model/transformer.ts'
import { nanoFolder } from './teacher-forced.ts'

export interface Turn {
  start: number
  end: number
  /** The parts of the turn outside analysis, as [start, end]. */
  answer: [number, number][]
  right: boolean
  answerRight: boolean
}

/** A conversation with the model's turns, each recorded as right or wrong by greedy generation. */
export interface Document {
  skill: string
  ids: number[]
  turns: Turn[]
}

export const documents: Document[] = readFileSync(join(nanoFolder, 'eval.jsonl'), 'utf8')
  .trimEnd()
  .split('\n')
  .map(line => JSON.parse(line))

export interface Agreement {
  positions: number
  /** Positions at which both hold the same token for the likeliest. */
  sameTop: number
  /** Σ over positions of the KL divergence, in nats, from the first model's distribution to the second's. */
  divergence: number
  largest: number
}

/** Compares what two models expect at the supervised positions of a document, given all tokens before. */
export async function compare(right: Transformer, got: Transformer, { ids, turns }: Document): Promise<Agreement> {
  const sum: Agreement = { positions: 0, sameTop: 0, divergence: 0, largest: 0 }
  const caches = [right, got].map(model => model.newCache(ids.length))
  const { vocabSize } = right.config
  const run = (tokens: number[], start: number, logits: 'none' | 'all') =>
    Promise.all([right, got].map((model, i) => model.forward([{ cache: caches[i], tokens, start, logits }])))
  let at = 0
  for (const { start, end } of turns) {
    if (start - 1 > at) await run(ids.slice(at, start - 1), at, 'none')
    const [p, q] = await run(ids.slice(start - 1, end - 1), start - 1, 'all')
    for (let row = 0; row < end - start; row++) {
      const [a, b] = [p!, q!].map(logits => logits.subarray(row * vocabSize, (row + 1) * vocabSize))
      const { divergence, sameTop } = compareRows(a, b)
      sum.positions++
      sum.sameTop += sameTop ? 1 : 0
      sum.divergence += divergence
      sum.largest = Math.max(sum.largest, divergence)
    }
    at = end - 1
  }
  for (const cache of caches) cache.dispose()
  return sum
}

/** KL(softmax(right) ‖ softmax(got)). */
export function compareRows(right: Float32Array, got: Float32Array): { divergence: number; sameTop: boolean } {
  const [a, b] = [summary(right), summary(got)]
  let divergence = 0
  for (let i = 0; i < right.length; i++) {
    const logP = right[i] - a.logTotal
    if (logP > -40) divergence += Math.exp(logP) * (logP - (got[i] - b.logTotal)) // less weighs less than 1e-17 each
  }
  return { divergence, sameTop: a.top === b.top }
}

function summary(logits: Float32Array): { top: number; logTotal: number } {
  let top = 0
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[top]) top = i
  let total = 0
  for (let i = 0; i < logits.length; i++) total += Math.exp(logits[i] - logits[top])
  return { top, logTotal: logits[top] + Math.log(total) }
}
