import { Utf8Stream } from '../base/utf8.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { createHeaderReader, type Header, type HeaderReader } from './header.ts'
import { isOrdinary } from './header-segments.ts'
import type { Message } from './message.ts'
import {
  type Ended,
  type Machine,
  NO_EVENTS,
  type OpenMessage,
  type ParserEvent,
  type ParserState,
} from './parser-events.ts'
import type { RepairKind } from './repair.ts'
import { CALL, CHANNEL, END, END_OF_TEXT, MESSAGE, RETURN, START } from './tokens.ts'

function endOf(token: number): Ended | undefined {
  switch (token) {
    case END:
      return 'end'
    case CALL:
      return 'call'
    case RETURN:
      return 'return'
    case END_OF_TEXT:
      return 'endoftext'
    default:
      return undefined
  }
}

/**
 * Reads every token sequence, without exception, as messages of the assistant. A header is read as a whole when it
 * ends, so text that lacks its `<|message|>` comes in one delta at its end.
 */
export class TotalMachine implements Machine {
  readonly messages: Message[] = []
  state: ParserState
  readonly #tokenizer: Tokenizer
  readonly #readHeader: HeaderReader
  /** Tokens pushed before the one at hand. */
  #at = -1
  #events: ParserEvent[] = NO_EVENTS
  #headerTokens: number[] = []
  #headerAt = 0
  #afterStart = false
  #header: Header = { channel: undefined, text: '' }
  readonly #utf8 = new Utf8Stream()
  #content = ''
  #delta: string | undefined
  /** The open message's own tokens; undefined once one came that must not be said again. */
  #tokens: number[] | undefined
  #hasContent = false

  constructor(tokenizer: Tokenizer, startsInHeader: boolean, declared: ReadonlySet<string> | undefined) {
    this.#tokenizer = tokenizer
    this.#readHeader = createHeaderReader(tokenizer, declared)
    this.state = startsInHeader ? 'header' : 'between'
  }

  get open(): OpenMessage {
    if (this.state !== 'content') return { role: this.state === 'header' ? 'assistant' : undefined, content: '' }
    const { channel, recipient, contentType } = this.#header
    return { role: 'assistant', channel, recipient, contentType, content: this.#content, delta: this.#delta }
  }

  push(token: number): ParserEvent[] {
    this.#at++
    this.#events = NO_EVENTS
    this.#delta = undefined
    if (this.state === 'content') this.#pushContent(token)
    else if (this.state === 'header') this.#pushHeader(token)
    else this.#pushBetween(token)
    return this.#events
  }

  finish(): ParserEvent[] {
    this.#at++
    this.#events = NO_EVENTS
    this.#delta = undefined
    if (this.state === 'content') this.#endMessage('cut')
    else if (this.state === 'header') this.#endHeader('cut')
    this.#at--
    return this.#events
  }

  #pushBetween(token: number): void {
    if (token === START) this.#openHeader(true)
    else if (endOf(token) !== undefined) this.#repair('stray-token', token)
    else {
      this.#repair('missing-start', token)
      this.#openHeader(false)
      this.#pushHeader(token)
    }
  }

  #openHeader(afterStart: boolean): void {
    this.state = 'header'
    this.#afterStart = afterStart
    this.#headerTokens = []
  }

  #pushHeader(token: number): void {
    const ended = token === MESSAGE ? 'message' : token === START ? 'next' : endOf(token)
    if (ended === undefined) {
      if (this.#headerTokens.length === 0) this.#headerAt = this.#at
      this.#headerTokens.push(token)
      return
    }
    // Before the first message: the prompt's own header begun again, or an end of nothing.
    const saysNothing = this.#headerTokens.length === 0 && !this.#afterStart
    if (saysNothing && token !== MESSAGE) this.#repair('stray-token', token)
    this.#endHeader(ended)
    if (token === START) this.#openHeader(true)
  }

  #endHeader(ended: Ended | 'message'): void {
    const tokens = this.#headerTokens
    const at = tokens.length === 0 ? this.#at : this.#headerAt
    const {
      before,
      header,
      repairs,
      tokens: own,
    } = this.#readHeader({ tokens, at, afterStart: this.#afterStart, ended })
    for (const repair of repairs) this.#emit({ type: 'repair', repair })
    this.state = 'between'
    for (const text of before) this.#wholeMessage(text, 'next')
    if (header === undefined) return
    if (ended === 'message') this.#openContent(header, own && [...own, MESSAGE])
    else this.#wholeMessage(header, ended)
  }

  /** A message whose text was all in its header. */
  #wholeMessage(header: Header, ended: Ended): void {
    this.#openContent(header, undefined)
    this.#addText(header.text)
    this.#endMessage(ended)
  }

  #openContent(header: Header, tokens: number[] | undefined): void {
    this.state = 'content'
    this.#header = header
    this.#content = ''
    this.#tokens = tokens
    this.#hasContent = false
    if (header.channel !== undefined) this.#emitHeader()
  }

  #pushContent(token: number): void {
    const ended = endOf(token)
    if (isOrdinary(this.#tokenizer, token)) this.#pushText(token)
    else if (ended !== undefined) this.#endMessage(ended)
    else if (token === START || token === CHANNEL) this.#nextMessage(token)
    else if (token === MESSAGE && this.#hasContent) this.#secondMessage()
    else {
      this.#tokens = undefined
      this.#repair(this.#tokenizer.tokenBytes(token) === undefined ? 'unknown-id' : 'stray-token', token)
    }
  }

  #pushText(token: number): void {
    this.#hasContent = true
    this.#tokens?.push(token)
    this.#addText(this.#utf8.push(this.#tokenizer.tokenBytes(token)!))
  }

  /** Another message begins before this one has ended. */
  #nextMessage(token: number): void {
    this.#repair('missing-end', token)
    this.#endMessage('next')
    this.#openHeader(token === START)
    if (token === CHANNEL) this.#pushHeader(token)
  }

  /** A second `<|message|>`: a header was lost before it, and what follows may be reasoning. */
  #secondMessage(): void {
    this.#repair('missing-end', MESSAGE)
    this.#endMessage('next')
    this.#openContent({ channel: 'analysis', text: '' }, undefined)
  }

  #addText(text: string): void {
    if (text === '') return
    this.#content += text
    const { channel } = this.#header
    if (channel === undefined) return // held back until the end says what it is
    this.#delta = text
    this.#emit({ type: 'delta', index: this.messages.length, channel, text })
  }

  #endMessage(ended: Ended): void {
    const { recipient, contentType } = this.#header
    this.#addText(this.#utf8.finish())
    if (this.#header.channel === undefined) this.#release(ended)
    if (ended === 'call' && recipient === undefined) this.#repair('call-without-recipient', CALL)
    const message: Message = { role: 'assistant', channel: this.#header.channel, content: this.#content }
    if (recipient !== undefined) message.recipient = recipient
    if (contentType !== undefined) message.contentType = contentType
    if (this.#tokens !== undefined) message.tokens = this.#tokens
    this.#emit({ type: 'message', index: this.messages.length, message, ended })
    this.messages.push(message)
    this.state = 'between'
  }

  /** The end of a message without channel says what it is, as for text without a header. */
  #release(ended: Ended): void {
    const text = this.#content
    this.#header = { ...this.#header, channel: ended === 'return' ? 'commentary' : 'analysis' }
    this.#emitHeader()
    this.#content = ''
    this.#addText(text)
  }

  #emitHeader(): void {
    const { channel, recipient, contentType } = this.#header
    this.#emit({ type: 'header', index: this.messages.length, role: 'assistant', channel, recipient, contentType })
  }

  #repair(kind: RepairKind, token: number): void {
    this.#emit({ type: 'repair', repair: { kind, at: this.#at, tokens: [token] } })
  }

  #emit(event: ParserEvent): void {
    if (this.#events === NO_EVENTS) this.#events = [event]
    else this.#events.push(event)
  }
}
