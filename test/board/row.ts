/** A bug to plant in a temporary copy of the source. `search` must occur exactly once in `file`. */
export interface Patch {
  file: string
  search: string
  replace: string
  /** The mistake in words. */
  what?: string
}

/** One row of the reliability board: a property, how often it was tried, and a bug that it must find. */
export interface Row {
  row: number
  title: string
  /** Runs the cases; `long` asks for the full count. Every failure is described in one line. */
  run(options: { long: boolean; seed: number }): Promise<{ n: number; failures: string[] }>
  /** With any one of these bugs planted the row must report failures. */
  planted: Patch[]
}
