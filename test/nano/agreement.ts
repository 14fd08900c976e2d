import type { Transformer } from '../../src/model/transformer.ts'
import type { Document } from './documents.ts'
import { numUnused } from './small.ts'

/** How far what one model expects is from what another does, over some positions. */
export class Agreement {
  positions = 0
  /** Positions at which both hold the same token for the likeliest. */
  sameTop = 0
  /** Σ over positions of the Kullback–Leibler divergence, in nats, from the right distribution to the other. */
  divergence = 0
  largest = 0

  get mean(): number {
    return this.divergence / this.positions
  }

  get sameTopShare(): number {
    return this.sameTop / this.positions
  }

  add(divergence: number, sameTop: boolean): void {
    this.positions++
    this.divergence += divergence
    this.largest = Math.max(this.largest, divergence)
    if (sameTop) this.sameTop++
  }

  toString(): string {
    return (
      `mean divergence ${this.mean.toExponential(2)}, largest ${this.largest.toExponential(2)}, the same likeliest ` +
      `token at ${this.sameTop} of ${this.positions} (${(100 * this.sameTopShare).toFixed(3)} %)`
    )
  }
}

/** Two models of `models`, by name, and how far the second is from the first. */
export interface Pair<Name extends string> {
  right: Name
  got: Name
  agreement: Agreement
}

/**
 * Adds to each pair how they agree at the supervised positions of a document, given all tokens before: models and
 * document of the small vocabulary. Each model runs once, however many pairs it is in.
 */
export async function compare<Name extends string>(
  models: Readonly<Record<Name, Transformer>>,
  pairs: readonly Pair<Name>[],
  { ids, turns }: Document,
): Promise<void> {
  const names = Object.keys(models) as Name[]
  const caches = names.map(name => models[name].newCache(ids.length))
  const run = (tokens: number[], start: number, logits: 'none' | 'all') =>
    Promise.all(names.map((name, i) => models[name].forward([{ cache: caches[i], tokens, start, logits }])))
  let at = 0
  for (const { start, end } of turns) {
    if (start - 1 > at) await run(ids.slice(at, start - 1), at, 'none')
    const logits = await run(ids.slice(start - 1, end - 1), start - 1, 'all') // each [end - start, vocabSize]
    for (let row = 0; row < end - start; row++) {
      const rows = new Map(
        names.map((name, i) => {
          const { vocabSize } = models[name].config
          return [name, summary(logits[i]!.subarray(row * vocabSize, (row + 1) * vocabSize))]
        }),
      )
      for (const { right, got, agreement } of pairs) {
        const [p, q] = [rows.get(right)!, rows.get(got)!]
        agreement.add(divergence(p, q), p.top === q.top)
      }
    }
    at = end - 1
  }
  for (const cache of caches) cache.dispose()
}

/** A row of logits as probabilities: weights[i] / total. */
interface Summary {
  logits: Float32Array
  top: number
  weights: Float64Array
  total: number
  logTotal: number
}

function summary(logits: Float32Array): Summary {
  let top = 0
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[top]) top = i
  const highest = logits[top]
  const weights = new Float64Array(logits.length)
  for (let i = 0; i < logits.length; i++) weights[i] = Math.exp(logits[i] - highest)
  weights[weights.length - 1] *= numUnused
  let total = 0
  for (const weight of weights) total += weight
  return { logits, top, weights, total, logTotal: highest + Math.log(total) }
}

/** KL(softmax(right) ‖ softmax(got)). */
function divergence(right: Summary, got: Summary): number {
  const { logits, weights } = right
  const others = got.logits
  let sum = 0
  for (let i = 0; i < logits.length; i++) sum += weights[i] * (logits[i] - others[i])
  return sum / right.total + (got.logTotal - right.logTotal)
}
