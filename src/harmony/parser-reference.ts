import { HarmonyError } from '../base/errors.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { type ReferenceHeader, readReferenceHeader } from './header-reference.ts'
import type { Message, Role } from './message.ts'
import type { Ended, Machine, OpenMessage, ParserEvent, ParserState } from './parser-events.ts'
import { NO_EVENTS } from './parser-events.ts'
import { joinBytes, lossyText, REPLACEMENT, scanUtf8 } from './parser-utf8.ts'
import { CALL, END, END_OF_PROMPT, LAST_SPECIAL, MESSAGE, RETURN, START } from './tokens.ts'

const NOTHING = new Uint8Array(0)
const ENDED: ReadonlyMap<number, Ended> = new Map([
  [END, 'end'],
  [CALL, 'call'],
  [RETURN, 'return'],
])

/**
 * Harmony as openai-harmony 0.0.8 reads it (`StreamableParser`), errors and quirks included, for parity: `lenient` is
 * its `strict=False`. Throws HarmonyError with the token concerned and its index.
 */
export class ReferenceMachine implements Machine {
  readonly messages: Message[] = []
  state: ParserState
  readonly #tokenizer: Tokenizer
  readonly #lenient: boolean
  #role: Role | undefined
  #count = 0
  #headerTokens: number[] = []
  #header: ReferenceHeader = { role: 'assistant' }
  #contentTokens: number[] = []
  #content = ''
  #delta: string | undefined
  #waiting: Uint8Array = NOTHING
  /** An id that does not exist came: nothing of this message is decoded any more. */
  #lost = false

  constructor(tokenizer: Tokenizer, role: Role | undefined, lenient: boolean) {
    this.#tokenizer = tokenizer
    this.#lenient = lenient
    this.#role = role
    this.state = role === undefined ? 'between' : 'header'
  }

  get open(): OpenMessage {
    if (this.state !== 'content') return { role: this.#role, content: '', delta: this.#delta }
    const { role, channel, recipient, contentType } = this.#header
    return { role, channel, recipient, contentType, content: this.#content, delta: this.#delta }
  }

  push(token: number): ParserEvent[] {
    this.#count++
    switch (this.state) {
      case 'between':
        return this.#pushBetween(token)
      case 'header':
        return this.#pushHeader(token)
      case 'content':
        return this.#pushContent(token)
      default:
        return this.state satisfies never
    }
  }

  finish(): ParserEvent[] {
    if (this.state === 'header') throw this.#error('the input ended in a header', [])
    return this.state === 'content' ? this.#endMessage('cut') : NO_EVENTS
  }

  #pushBetween(token: number): ParserEvent[] {
    if (token !== START) throw this.#error(`token ${token} stands where <|start|> (${START}) must`, [token])
    this.state = 'header'
    this.#headerTokens = []
    return NO_EVENTS
  }

  #pushHeader(token: number): ParserEvent[] {
    if (token === MESSAGE) return this.#openContent()
    const ended = this.#lenient ? ENDED.get(token) : undefined
    if (ended !== undefined) return this.#endHeader(ended)
    this.#headerTokens.push(token)
    return NO_EVENTS
  }

  #openContent(): ParserEvent[] {
    this.state = 'between' // where an error leaves the reference
    const header = this.#readHeader(true)
    if (header.rest !== undefined) {
      throw this.#error(`a header has words that fit nowhere: ${JSON.stringify(header.rest)}`, this.#headerTokens)
    }
    this.#role = undefined
    this.#header = header
    this.#content = ''
    this.#contentTokens = []
    this.state = 'content'
    return [this.#headerEvent()]
  }

  /** A header that ends without `<|message|>`, in lenient mode: the first message's words become its content. */
  #endHeader(ended: Ended): ParserEvent[] {
    const events: ParserEvent[] = []
    if (this.#role !== undefined && this.#headerTokens.length > 0) {
      this.#header = this.#readHeader(false)
      const index = this.messages.length
      const text = this.#header.rest ?? ''
      const message = this.#message(text)
      events.push(this.#headerEvent())
      if (text !== '') events.push({ type: 'delta', index, channel: this.#header.channel, text })
      this.messages.push(message)
      events.push({ type: 'message', index, message, ended })
    }
    this.#role = undefined
    this.state = 'between'
    return events
  }

  #readHeader(fields: boolean): ReferenceHeader {
    try {
      const bytes = this.#headerTokens.map(token => {
        const some = this.#bytes(token)
        if (some === undefined) throw new HarmonyError(`a header has token ${token}, which does not exist`)
        return some
      })
      const text = bytes.reduce(joinBytes, NOTHING)
      if (scanUtf8(text).valid < text.length) throw new HarmonyError('a header is not valid UTF-8')
      return readReferenceHeader(lossyText(text), this.#role, fields)
    } catch (error) {
      throw this.#error((error as Error).message, this.#headerTokens)
    }
  }

  #pushContent(token: number): ParserEvent[] {
    const ended = ENDED.get(token)
    if (ended !== undefined) return this.#endMessage(ended)
    this.#contentTokens.push(token)
    this.#delta = this.#decode(token)
    if (this.#delta === undefined) return NO_EVENTS
    this.#content += this.#delta
    return [{ type: 'delta', index: this.messages.length, channel: this.#header.channel, text: this.#delta }]
  }

  /** The text that a token adds. After one broken sequence the rest waits for the next token, as in the reference. */
  #decode(token: number): string | undefined {
    const bytes = this.#bytes(token)
    if (bytes === undefined) this.#lost = true
    if (bytes === undefined || this.#lost) return undefined
    const all = joinBytes(this.#waiting, bytes)
    const { valid, broken } = scanUtf8(all)
    this.#waiting = all.subarray(valid + broken)
    const text = lossyText(all.subarray(0, valid)) + (broken > 0 ? REPLACEMENT : '')
    return text === '' ? undefined : text
  }

  #endMessage(ended: Ended): ParserEvent[] {
    // The reference puts the lost tokens before the bytes that were waiting for them.
    const text = this.#content + (this.#lost ? REPLACEMENT : '') + lossyText(this.#waiting)
    const message = this.#message(text)
    const tokens = this.#ownTokens()
    if (tokens !== undefined) message.tokens = tokens
    const index = this.messages.length
    this.messages.push(message)
    this.state = 'between'
    this.#delta = undefined
    this.#waiting = NOTHING
    this.#lost = false
    return [{ type: 'message', index, message, ended }]
  }

  #message(content: string): Message {
    const { rest: _, ...fields } = this.#header
    const set = Object.entries(fields).filter(([, value]) => value !== undefined)
    return { ...(Object.fromEntries(set) as unknown as Message), content }
  }

  /** What an assistant wrote after its role, where the role is a token of its own. */
  #ownTokens(): number[] | undefined {
    if (this.#header.role !== 'assistant') return undefined
    const [role] = this.#tokenizer.encode('assistant')
    const header = this.#headerTokens[0] === role ? this.#headerTokens.slice(1) : this.#headerTokens
    return [...header, MESSAGE, ...this.#contentTokens]
  }

  #headerEvent(): ParserEvent {
    const { role, channel, recipient, contentType } = this.#header
    return { type: 'header', index: this.messages.length, role, channel, recipient, contentType }
  }

  /** A token's bytes as openai-harmony knows it: it names 200018 by its number and has one reserved id more. */
  #bytes(token: number): Uint8Array | undefined {
    if (token === END_OF_PROMPT || token === LAST_SPECIAL + 1) return new TextEncoder().encode(`<|reserved_${token}|>`)
    return this.#tokenizer.tokenBytes(token)
  }

  #error(fact: string, tokens: readonly number[]): HarmonyError {
    const place = tokens.length === 0 ? `after ${this.#count} tokens` : `at token ${this.#count - 1}`
    return new HarmonyError(`${fact} (${place}); the default mode repairs what strict mode refuses`, { tokens })
  }
}
