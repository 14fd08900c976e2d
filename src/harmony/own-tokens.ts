/** The ids that the model itself wrote: whether they can stand for a message. */
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { type Message, textOf } from './message.ts'
import { CHANNEL, CONSTRAIN, MESSAGE } from './tokens.ts'

/** The control tokens of a header after its role, in the only order in which they may come. */
const order: readonly number[] = [CHANNEL, CONSTRAIN, MESSAGE]

/**
 * The message's own ids, if they are one header and one content and say what the message says. Any other control token
 * could forge a message, and an edited content must not be contradicted; such messages are rendered from their fields.
 */
export function usableTokens(message: Message, tokenizer: Tokenizer): readonly number[] | undefined {
  const { tokens, role } = message
  if (tokens === undefined || role !== 'assistant') return undefined
  const start = contentStart(tokens, tokenizer)
  if (start === undefined) return undefined
  return tokenizer.decode(tokens.slice(start)) === textOf(message) ? tokens : undefined
}

/** Where the content begins: after the only `<|message|>`. Undefined where the ids are not header and content. */
function contentStart(tokens: readonly number[], tokenizer: Tokenizer): number | undefined {
  let passed = -1
  let start: number | undefined
  for (let i = 0; i < tokens.length; i++) {
    const id = tokens[i]
    if (tokenizer.tokenBytes(id) === undefined) return undefined
    if (!tokenizer.isSpecial(id)) continue
    const rank = order.indexOf(id)
    if (rank <= passed) return undefined
    passed = rank
    if (id === MESSAGE) start = i + 1
  }
  return start
}
