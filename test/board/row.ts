/** A bug to plant in a temporary copy of the source. `search` must occur exactly once in `file`. */
export interface Patch {
  file: string
  search: string
  replace: string
  /** The mistake in words. */
  what?: string
  /** The part of the row that finds it, where the row has parts. */
  part?: string
}

export interface RunOptions {
  /** The full count of cases. */
  long: boolean
  /** No more cases than find a planted bug: rows of many cases take a small part of them. */
  quick?: boolean
  /** Only this part of the row. */
  part?: string
  seed: number
}

/** One row of the reliability board: a property, how often it was tried, and a bug that it must find. */
export interface Row {
  row: number
  title: string
  /** Why it cannot run on this machine, if so. */
  obstacle?(): string | undefined | Promise<string | undefined>
  /** Runs the cases. Every failure is described in one line. */
  run(options: RunOptions): Promise<{ n: number; failures: string[] }>
  /** With any one of these bugs planted the row must report failures. */
  planted: Patch[]
}
