/**
 * The total reading of a header: any tokens give messages. Nothing that could be reasoning becomes final: only what a
 * header calls `final` in so many words is.
 */
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { createPartReader, type Part } from './header-part.ts'
import { createRecipients } from './header-recipient.ts'
import { createRoleReader, type RoleReading } from './header-role.ts'
import { cutHeader } from './header-segments.ts'
import type { Channel } from './message.ts'
import type { Ended } from './parser-events.ts'
import type { Repair, RepairKind } from './repair.ts'
import { CHANNEL, START } from './tokens.ts'

/** What a header says of a message. `text` is the content if there was no `<|message|>`. */
export interface Header {
  /** Undefined after a `<|message|>` alone: the end of the message decides. */
  channel: Channel | undefined
  recipient?: string
  contentType?: string
  text: string
}

export interface HeaderReading {
  /** Texts before the header proper, each a message that lacks its `<|message|>`. */
  before: Header[]
  /** The header proper; undefined if there is none. */
  header: Header | undefined
  repairs: Repair[]
  /** The header's tokens after its role, where they can be said again as they are. */
  tokens: number[] | undefined
}

export interface HeaderInput {
  tokens: readonly number[]
  /** Index of the first token in the stream. */
  at: number
  /** The header follows a sampled `<|start|>`: a role must come first. */
  afterStart: boolean
  /** What ended the header. */
  ended: Ended | 'message'
}

export type HeaderReader = (input: HeaderInput) => HeaderReading

/** Repairs after which the tokens of a header are still fit to be said again. */
const HARMLESS: ReadonlySet<RepairKind> = new Set(['bare-name', 'call-channel', 'word-order'])

/** A reader of headers. `declared`: the tools that can be called, undefined if they are not known. */
export function createHeaderReader(tokenizer: Tokenizer, declared: ReadonlySet<string> | undefined): HeaderReader {
  const recipients = createRecipients(declared)
  const readRole = createRoleReader(tokenizer)
  const readPart = createPartReader(tokenizer, recipients.isDeclared)

  return input => {
    const groups = cutHeader(tokenizer, input.tokens)
    const role = readRole(groups[0]?.segments[0], input.afterStart)
    const parts = groups.map((group, k) => readPart(group, k === groups.length - 1 && input.ended === 'message', role))
    const repairs: Repair[] = []
    const { before, last } = separate(parts, input.ended === 'message')
    const texts = before.map(some => assemble(some, { ...input, ended: 'next' }, role, repairs))
    const header = isMessage(last, input.ended) ? assemble(last, input, role, repairs) : undefined
    for (const { group, flaws } of parts) {
      for (const kind of flaws) repairs.push({ kind, at: input.at + group.at, tokens: group.tokens })
    }
    if (texts.length > 0 || header !== undefined) {
      if (role.flaw !== undefined) repairs.push(repair(input, role.flaw))
    } else if (input.tokens.length > 0 || input.afterStart) {
      repairs.push(repair(input, 'empty-header'))
    }
    const clean = input.ended === 'message' && repairs.every(({ kind }) => HARMLESS.has(kind))
    return { before: texts, header, repairs, tokens: clean ? input.tokens.slice(role.numTokens) : undefined }
  }

  /** One message's header from the parts that belong to it: recipients come together, the last channel counts. */
  function assemble(parts: Part[], input: HeaderInput, role: RoleReading, repairs: Repair[]): Header {
    const report = (kind: RepairKind) => repairs.push(repair(input, kind))
    const marked = parts.filter(part => part.group.segments[0].marker === CHANNEL)
    if (marked.length > 1) report('repeated-channel')
    const last = parts.at(-1)
    const channel = last?.channel ?? channelBefore(parts)
    // A second <|channel|> that says final begins an answer: who was called before it does not matter any more.
    const callers = channel === 'final' && marked.length > 1 ? [last!] : parts
    const { recipient, flaws } = recipients.choose(
      callers.flatMap(part => part.fields.recipients),
      channel === 'final',
    )
    flaws.forEach(report)
    if (input.ended !== 'message') report(channel || recipient ? 'missing-message' : 'no-header')
    else if (channel === undefined) report('missing-channel')
    const text = last?.fields.rest ?? ''
    if (role.flaw === 'wrong-role') return { channel: channel === 'final' ? channel : 'analysis', text }
    const typed = parts.findIndex(part => part.fields.contentType !== undefined)
    const contentType = parts[typed]?.fields.contentType
    if (typed >= 0 && parts.slice(typed + 1).some(part => part.fields.recipients.length > 0)) report('word-order')
    if (recipient === undefined) return { channel: channel ?? channelOfPlain(input), contentType, text }
    const isMisplaced = channel === 'final' || (channel === 'analysis' && recipient.startsWith('functions.'))
    if (isMisplaced) report('call-channel')
    return { channel: isMisplaced ? 'commentary' : (channel ?? 'commentary'), recipient, contentType, text }
  }
}

/** Parts that have text of their own are messages; those that have none belong to the next one. */
function separate(parts: Part[], hasMessage: boolean): { before: Part[][]; last: Part[] } {
  const before: Part[][] = []
  let pending: Part[] = []
  for (const part of parts) {
    pending.push(part)
    const isLast = part === parts.at(-1)
    if (part.fields.rest === '' || (isLast && !hasMessage)) continue
    before.push(pending)
    pending = []
  }
  return { before, last: pending }
}

/** A header without `<|message|>` makes a message if it has text or calls, or if it names a channel and the message ended. */
function isMessage(parts: Part[], ended: Ended | 'message'): boolean {
  if (ended === 'message') return true
  if (parts.some(({ fields }) => fields.rest !== '' || fields.recipients.length > 0)) return true
  return ended !== 'next' && ended !== 'cut' && parts.some(part => part.channel !== undefined)
}

/** A channel that an earlier part names. That it was final does not carry over. */
function channelBefore(parts: Part[]): Channel | undefined {
  return parts.map(part => part.channel).findLast(channel => channel !== undefined && channel !== 'final')
}

/**
 * Text without a header is the model's last word to the user if its turn ended with it (refusals come so), and may be
 * reasoning otherwise. It is never final. After `<|message|>` the end is still to come.
 */
function channelOfPlain({ ended }: HeaderInput): Channel | undefined {
  if (ended === 'message') return undefined
  return ended === 'return' ? 'commentary' : 'analysis'
}

/** A repair of a whole header, its `<|start|>` included. */
function repair({ tokens, at, afterStart }: HeaderInput, kind: RepairKind): Repair {
  return afterStart ? { kind, at: at - 1, tokens: [START, ...tokens] } : { kind, at, tokens: tokens.slice() }
}
