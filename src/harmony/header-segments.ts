import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { CHANNEL, FIRST_SPECIAL } from './tokens.ts'

/** A control token of a header (none at the beginning) and the text up to the next one. */
export interface Segment {
  marker: number | undefined
  text: string
  /** The tokens, marker included. */
  tokens: number[]
  /** Index of the first of them in the header. */
  at: number
}

/** A `<|channel|>` and the segments up to the next one, or what stands before the first. */
export interface Group {
  segments: Segment[]
  at: number
  tokens: number[]
}

/** Cuts a header at its control tokens. Ids that do not exist cut as well. */
export function cutHeader(tokenizer: Tokenizer, tokens: readonly number[]): Group[] {
  const groups: Group[] = []
  let from = 0
  for (let at = 1; at <= tokens.length; at++) {
    if (at < tokens.length && isOrdinary(tokenizer, tokens[at])) continue
    const segment = readSegment(tokenizer, tokens, from, at)
    if (groups.length === 0 || segment.marker === CHANNEL) groups.push({ segments: [], at: from, tokens: [] })
    const group = groups[groups.length - 1]
    group.segments.push(segment)
    group.tokens.push(...segment.tokens)
    from = at
  }
  return groups
}

export function isOrdinary(tokenizer: Tokenizer, token: number): boolean {
  return token < FIRST_SPECIAL && tokenizer.tokenBytes(token) !== undefined
}

function readSegment(tokenizer: Tokenizer, all: readonly number[], at: number, end: number): Segment {
  const marked = !isOrdinary(tokenizer, all[at])
  const text = tokenizer.decode(all.slice(marked ? at + 1 : at, end))
  return { marker: marked ? all[at] : undefined, text, tokens: all.slice(at, end), at }
}
