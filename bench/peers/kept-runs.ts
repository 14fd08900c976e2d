import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import type { Run } from './rounds.ts'

/**
 * Finished runs in a file that is only ever added to, a line for each: whenever a call is cut off, the next one with the
 * same key, which holds everything that matters to the runs, goes on behind them.
 */
export class KeptRuns {
  readonly #path: string
  readonly #key: string

  constructor(path: string, key: string) {
    this.#path = path
    this.#key = key
  }

  get runs(): Run[] {
    if (!existsSync(this.#path)) return []
    const lines = readFileSync(this.#path, 'utf8').split('\n')
    const ours = lines.flatMap(parsedLine).filter(entry => entry.key === this.#key)
    return ours.slice(ours.findLastIndex(entry => entry.run === null) + 1).map(entry => entry.run!)
  }

  keep(run: Run): void {
    this.#append(run)
  }

  /** What was kept is no longer gone on with. */
  end(): void {
    this.#append(null)
  }

  #append(run: Run | null): void {
    // A line that was cut off has no end: it spoils no other.
    const isCut = existsSync(this.#path) && !/(^|\n)$/.test(readFileSync(this.#path, 'utf8'))
    appendFileSync(this.#path, `${isCut ? '\n' : ''}${JSON.stringify({ key: this.#key, run })}\n`)
  }
}

/** Nothing where the writer was cut off. */
function parsedLine(line: string): { key: string; run: Run | null }[] {
  try {
    return [JSON.parse(line)]
  } catch {
    return []
  }
}
