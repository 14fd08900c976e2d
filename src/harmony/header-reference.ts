import { HarmonyError } from '../base/errors.ts'
import type { Role } from './message.ts'
import { CHANNEL_MARKER, CONSTRAIN_MARKER, isRole } from './tokens.ts'

/** A header as openai-harmony 0.0.8 reads it. `rest`: words that fit nowhere, one space between them. */
export interface ReferenceHeader {
  role: Role
  name?: string
  channel?: string
  recipient?: string
  contentType?: string
  rest?: string
}

/**
 * Reads a header's decoded text by the rules of openai-harmony 0.0.8, quirks included (`parse_header_from_string`).
 * `role` is what is known beforehand. With `fields` false, recipient and content type are left in `rest`.
 * Throws HarmonyError where the reference fails.
 */
export function readReferenceHeader(text: string, role: Role | undefined, fields = true): ReferenceHeader {
  const { channel, others } = takeChannel(text)
  const words = asciiWords(spaceBeforeConstrain(trimWhiteSpace(others)))
  const author = takeRole(words, role)
  if (!fields) return { ...author, channel, rest: joined(words) }
  return { ...author, channel, ...takeFields(words), rest: joined(words) }
}

// Unicode's White_Space, which Rust trims and searches by: with U+0085, without U+FEFF (JavaScript's \s is the reverse).
const WHITE_SPACE = '\\t-\\r \\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000'
const CHANNEL_END = new RegExp(`[${WHITE_SPACE}<]`, 'u')
const OUTER_SPACE = new RegExp(`^[${WHITE_SPACE}]+|[${WHITE_SPACE}]+$`, 'gu')

function trimWhiteSpace(text: string): string {
  return text.replace(OUTER_SPACE, '')
}

function takeChannel(text: string): { channel?: string; others: string } {
  const marker = text.indexOf(CHANNEL_MARKER)
  if (marker < 0) return { others: text }
  const after = text.slice(marker + CHANNEL_MARKER.length)
  const end = after.search(CHANNEL_END)
  const channel = end < 0 ? after : after.slice(0, end)
  if (channel === '') throw new HarmonyError('a header has <|channel|> but no channel after it')
  return { channel, others: text.slice(0, marker) + after.slice(channel.length) }
}

function spaceBeforeConstrain(text: string): string {
  return text.replaceAll(CONSTRAIN_MARKER, ` ${CONSTRAIN_MARKER}`)
}

/** Split at ASCII white space alone: a vertical tab joins. */
function asciiWords(text: string): string[] {
  return text.split(/[ \t\n\f\r]+/u).filter(word => word !== '')
}

function takeRole(words: string[], known: Role | undefined): { role: Role; name?: string } {
  const first = words[0]
  if (known === undefined && first === undefined) throw new HarmonyError('a header has no role')
  const role = known ?? (isRole(first) ? first : toolRole(words))
  if (words[0] === role) words.shift()
  // The name of a tool is the first word even where that word is the role itself.
  return role === 'tool' && known === undefined ? { role, name: first } : { role }
}

/** An unknown word is a tool's name if something follows it. */
function toolRole(words: string[]): Role {
  if (words.length === 1 && !words[0].startsWith('to=')) {
    throw new HarmonyError(`a header has the role ${JSON.stringify(words[0])}, which does not exist`)
  }
  words.shift()
  return 'tool'
}

function takeFields(words: string[]): { recipient?: string; contentType?: string } {
  const last = words.pop()
  if (last === undefined) return {}
  if (last.startsWith('to=') || words.length === 0) return { recipient: withoutTo(last) }
  return { recipient: withoutTo(words.pop()!), contentType: last }
}

function withoutTo(word: string): string {
  return word.startsWith('to=') ? word.slice(3) : word
}

function joined(words: string[]): string | undefined {
  return words.length === 0 ? undefined : words.join(' ')
}
