import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { firstWord } from './header-fields.ts'
import type { Segment } from './header-segments.ts'
import { isRole } from './tokens.ts'

export interface RoleReading {
  /** What stands after the role in the header's first segment. */
  text: string
  /** How many whole tokens the role took. */
  numTokens: number
  flaw?: 'missing-role' | 'wrong-role' | 'leftover' | 'recipient-spelling'
}

/**
 * Reads the role at the beginning of a header. It can only be assistant: after a sampled `<|start|>` it must be, before
 * the first message it may be said again.
 */
export function createRoleReader(tokenizer: Tokenizer) {
  const [assistant] = tokenizer.encode('assistant')

  return (first: Segment | undefined, afterStart: boolean): RoleReading => {
    const tokens = first === undefined || first.marker !== undefined ? [] : first.tokens
    let numTokens = 0
    while (tokens[numTokens] === assistant) numTokens++
    const rest = numTokens === 0 ? (tokens.length === 0 ? '' : first!.text) : tokenizer.decode(tokens.slice(numTokens))
    const words = /^(?:\s*assistant(?![A-Za-z0-9_]))+/.exec(rest)
    const text = words === null ? rest : rest.slice(words[0].length)
    if (numTokens === 0 && words === null) return afterStart ? withoutRole(rest) : { text: rest, numTokens }
    if (afterStart && /^to=/i.test(text)) return { text, numTokens, flaw: 'recipient-spelling' }
    const isSaidTwice = numTokens > 1 || (numTokens > 0 && words !== null)
    if (!text.startsWith(':')) return { text, numTokens, flaw: isSaidTwice ? 'leftover' : undefined }
    return { text: text.slice(firstWord(text).length), numTokens, flaw: 'leftover' }
  }
}

/** No assistant after `<|start|>`. Only what stands where a role or a tool's name does is taken away. */
function withoutRole(text: string): RoleReading {
  const start = text.trimStart()
  if (start === '') return { text: '', numTokens: 0, flaw: 'missing-role' }
  const word = firstWord(start)
  const rest = start.slice(word.length)
  const isName = isRole(word.split(':')[0]) || rest.trim() === '' || /^\s+to=/.test(rest)
  return { text: isName ? rest : start, numTokens: 0, flaw: 'wrong-role' }
}
