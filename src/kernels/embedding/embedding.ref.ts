import { RowReader, type StoredRows } from '../matrix.ref.ts'

/** Rows of table [vocabSize, hiddenSize] → [tokens, hiddenSize]. */
export function embedding(tokens: Int32Array, table: StoredRows, hiddenSize: number): Float32Array {
  const out = new Float32Array(tokens.length * hiddenSize)
  const reader = new RowReader(hiddenSize)
  for (const [t, token] of tokens.entries()) out.set(reader.read(table, token), t * hiddenSize)
  return out
}
