import type { MaskSpec } from './engine.ts'

/** What may come next, token after token. */
export interface TokenMask {
  /** One bit a token: bit (id & 31) of word (id >> 5) is set where the token may come next. Holds until `advance`. */
  allowed(): Uint32Array
  /** Moves past a token that was taken. */
  advance(token: number): void
}

/** Builds the mask that plain data describes. */
export function createMask(spec: MaskSpec, vocabSize: number): TokenMask {
  const bits = new Uint32Array(Math.ceil(vocabSize / 32))
  for (const token of spec.allowed) bits[token >> 5] |= 1 << (token & 31)
  return { allowed: () => bits, advance: () => {} }
}
