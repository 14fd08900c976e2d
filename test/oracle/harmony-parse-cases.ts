/** Runs the parser as the golden files record openai-harmony's runs. */

import { isDeepStrictEqual } from 'node:util'
import type { Message, Role } from '../../src/harmony/message.ts'
import { HarmonyParser, parseCompletion } from '../../src/harmony/parser.ts'
import type { RepairKind } from '../../src/harmony/repair.ts'
import { END_OF_TEXT } from '../../src/harmony/tokens.ts'
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts'

type Outcome = { messages: Message[] } | { at: number; done?: Message[] }
/** State, role, channel, recipient, content type, delta and content after a token, or an error. */
type StateRow = (string | null)[]

export interface ParseCase {
  name: string
  role: Role | null
  ids: number[]
  strict: Outcome & { error?: string }
  lenient: (Outcome & { error?: string }) | 'same'
  stream?: StateRow[]
  lenientStream?: StateRow[]
}

/** What an outcome says beside the wording of its error. */
export function withoutWording({ error: _, ...outcome }: Outcome & { error?: string }): Outcome {
  return outcome
}

/** The messages, or the index of the token that was refused (the number of tokens: at the end of input). */
export function readOutcome(
  tokenizer: Tokenizer,
  ids: number[],
  role: Role | null,
  mode: 'strict' | 'lenient',
): Outcome {
  const parser = new HarmonyParser(tokenizer, { role, mode })
  let at = 0
  try {
    for (; at < ids.length; at++) parser.push(ids[at])
    parser.finish()
  } catch {
    const done = parser.messages.map(withoutTokens)
    return done.length === 0 ? { at } : { at, done }
  }
  return { messages: parser.messages.map(withoutTokens) }
}

function withoutTokens({ tokens: _, ...message }: Message): Message {
  return message
}

const STATES = { between: 'ExpectStart', header: 'Header', content: 'Content' }

/** A row after every token and one after the end of input; an error ends the list. */
export function readStates(
  tokenizer: Tokenizer,
  ids: number[],
  role: Role | null,
  mode: 'strict' | 'lenient',
): StateRow[] {
  const parser = new HarmonyParser(tokenizer, { role, mode })
  const rows: StateRow[] = []
  for (const token of [...ids, undefined]) {
    try {
      if (token === undefined) parser.finish()
      else parser.push(token)
    } catch {
      return [...rows, ['error']]
    }
    const { role = null, channel = null, recipient = null, contentType = null, delta = null, content } = parser.open
    rows.push([STATES[parser.state], role, channel, recipient, contentType, delta, content])
  }
  return rows
}

/** Where total mode reads something else than strict mode and calls it no repair, and why. */
const INTENDED: readonly [why: string, (case_: ParseCase, total: Message[]) => boolean][] = [
  ['no token is no error', ({ ids }) => ids.length === 0],
  ['<|endoftext|> ends a message', ({ ids }) => ids.includes(END_OF_TEXT)],
  ['every message is the assistant’s', ({ role }) => role !== 'assistant'],
  [
    'a single word after the channel is a content type, not a recipient',
    ({ strict }, total) =>
      'messages' in strict &&
      strict.messages.some(({ recipient }, k) => recipient !== undefined && recipient === total[k]?.contentType),
  ],
  [
    'white space beyond ASCII separates words, too',
    ({ strict }) => 'messages' in strict && strict.messages.some(({ recipient = '' }) => /\s/.test(recipient)),
  ],
]

/** How total mode's reading of a case differs from strict mode's: not at all, by reported repairs, or as intended. */
export function differenceOf(tokenizer: Tokenizer, case_: ParseCase): 'none' | RepairKind[] | { intended: string } {
  const { messages, repairs } = parseCompletion(tokenizer, case_.ids, { role: case_.role })
  const total = messages.map(withoutTokens)
  if ('messages' in case_.strict && isDeepStrictEqual(total, case_.strict.messages)) return 'none'
  if (repairs.length > 0) return repairs.map(({ kind }) => kind)
  const intended = INTENDED.find(([, holds]) => holds(case_, total))
  if (intended === undefined) {
    throw new Error(`${case_.name} differs from strict mode without a word: ${JSON.stringify(total)}`)
  }
  return { intended: intended[0] }
}
