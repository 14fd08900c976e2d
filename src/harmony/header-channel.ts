import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { Channel } from './message.ts'
import { CHANNELS, isChannel } from './tokens.ts'

export interface ChannelReading {
  channel: Channel | undefined
  /** The text after the channel. */
  rest: string
  flaw?: 'unknown-channel' | 'channel-spelling'
}

// A channel's name and nothing that would make another word of it: `finally` and `commentary/final` are no channels.
const NAME = /^\s*(analysis|commentary|final)(?:(?=to=)|(?![A-Za-z0-9_/-]))/i
const WORD = /^\s*(\S*?)[,:;.]?(?=to=|\s|$)/i

/** The name at once after its marker and white space after it: how the model writes and the reference reads. */
function isExact(text: string, name: Channel): boolean {
  return text.startsWith(name) && /^(?:\p{White_Space}|$)/u.test(text.slice(name.length))
}

/** Readers of a channel's name. */
export function createChannelReader(tokenizer: Tokenizer) {
  const spelled = CHANNELS.map(channel => ({ channel, tokens: tokenizer.encode(channel) }))

  return {
    /** The first word after `<|channel|>` where `<|message|>` follows. What is no channel is analysis. */
    word(text: string, isTool: (word: string) => boolean): ChannelReading {
      const [all, word] = WORD.exec(text)!
      const name = word.toLowerCase()
      const rest = text.slice(all.length)
      if (isChannel(name)) return { channel: name, rest, flaw: isExact(text, name) ? undefined : 'channel-spelling' }
      if (word === '' || isTool(word)) return { channel: undefined, rest: text }
      return { channel: 'analysis', rest, flaw: 'unknown-channel' }
    },

    /** The channel at the beginning of a text that goes on with content, as token ids or at a word's end. */
    prefix(text: string, tokens: readonly number[]): ChannelReading {
      const exact = spelled.find(({ tokens: name }) => name.every((token, k) => tokens[k] === token))
      if (exact !== undefined) return { channel: exact.channel, rest: text.slice(exact.channel.length) }
      const name = NAME.exec(text)
      if (name !== null) return { channel: name[1].toLowerCase() as Channel, rest: text.slice(name[0].length) }
      if (text.trim() === '') return { channel: undefined, rest: '' }
      return { channel: 'analysis', rest: text, flaw: 'unknown-channel' }
    },

    /** A channel whose marker is missing, in a header that says nothing else. */
    bareName(text: string): Channel | undefined {
      const name = text.trim()
      return isChannel(name) ? name : undefined
    },

    /** Text that begins with the very token `analysis`: a header without its control tokens. */
    isAnalysis(tokens: readonly number[]): boolean {
      return spelled[0].tokens.every((token, k) => tokens[k] === token)
    },
  }
}
