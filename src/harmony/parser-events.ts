import type { Message, Role } from './message.ts'
import type { Repair } from './repair.ts'

/** How a message ended: at a token, where the next message began without one, or with the input. */
export type Ended = 'end' | 'call' | 'return' | 'endoftext' | 'next' | 'cut'

/** What the parser says while it reads. `index` is the message's place in `messages`. */
export type ParserEvent =
  | { type: 'header'; index: number; role: Role; channel?: string; recipient?: string; contentType?: string }
  /** Whole characters of the content. In total mode a message's deltas together are its content. */
  | { type: 'delta'; index: number; channel?: string; text: string }
  | { type: 'message'; index: number; message: Message; ended: Ended }
  | { type: 'repair'; repair: Repair }

/** Between messages, in a header, or in content. */
export type ParserState = 'between' | 'header' | 'content'

/** The message that is being read. Its header is known in content only. */
export interface OpenMessage {
  role?: Role
  channel?: string
  recipient?: string
  contentType?: string
  content: string
  /** The text that the last token added. */
  delta?: string
}

/** What both readings of Harmony, the reference's and the total one, can do. */
export interface Machine {
  readonly messages: Message[]
  readonly state: ParserState
  readonly open: OpenMessage
  push(token: number): ParserEvent[]
  finish(): ParserEvent[]
}

/** The answer to a token that says nothing new. */
export const NO_EVENTS: ParserEvent[] = []
Object.freeze(NO_EVENTS)
