import { CONSTRAIN_MARKER } from './tokens.ts'

/** What can be wrong with fields. */
export type FieldFlaw = 'recipient-spelling' | 'type-spelling' | 'word-order' | 'leftover'

export interface NamedRecipient {
  name: string
  /** Without `to=`. */
  isBare: boolean
}

/** The fields that a stretch of header text holds. */
export interface Fields {
  recipients: NamedRecipient[]
  contentType?: string
  flaws: FieldFlaw[]
  /** What is no field: in a header that lacks `<|message|>`, its content. */
  rest: string
}

const RECIPIENT = /^to=([^\s<>{}[\]()"'`]*)/i
const TYPE = /^(?:json|code)(?![\w-])/
const CONSTRAINED_TYPE = /^\s*([A-Za-z][\w+.-]*(?:\/[\w+.-]+)?)/

export function noFields(): Fields {
  return { recipients: [], flaws: [], rest: '' }
}

/** Reads the type after `<|constrain|>`; gives back the text after it. */
export function takeConstrained(fields: Fields, text: string): string {
  const type = CONSTRAINED_TYPE.exec(text)
  if (type === null || fields.contentType !== undefined || /^\s/.test(text)) fields.flaws.push('type-spelling')
  if (type === null) return text
  fields.contentType ??= CONSTRAIN_MARKER + type[1]
  return text.slice(type[0].length)
}

/**
 * Reads ` to=name` and content types, in any order, from the beginning of a text; gives back what comes after them.
 * `isTool` says whether a word without `to=` is a tool's name.
 */
export function takeFields(fields: Fields, text: string, isTool: (word: string) => boolean): string {
  let rest = text.trimStart()
  for (;;) {
    const length = takeField(fields, rest, isTool)
    if (length === 0) return rest
    rest = rest.slice(length).trimStart()
  }
}

function takeField(fields: Fields, text: string, isTool: (word: string) => boolean): number {
  const to = RECIPIENT.exec(text)
  if (to !== null) {
    if (fields.contentType !== undefined) fields.flaws.push('word-order')
    if (!text.startsWith('to=') || !/^(?:[ \t\n\f\r]|$)/.test(text.slice(to[0].length)))
      fields.flaws.push('recipient-spelling')
    fields.recipients.push({ name: to[1], isBare: false })
    return to[0].length
  }
  const type = TYPE.exec(text)
  if (type !== null && fields.contentType === undefined && fields.recipients.length > 0) {
    fields.contentType = type[0]
    return type[0].length
  }
  const word = firstWord(text)
  if (word === '' || !isTool(word)) return 0
  fields.recipients.push({ name: word, isBare: true })
  fields.flaws.push('recipient-spelling')
  return word.length
}

/**
 * Reads a text of which every word must be a field, for `<|message|>` comes after it: the last unknown word is the
 * content type if there is none yet, others mean nothing.
 */
export function takeAllFields(fields: Fields, text: string, isTool: (word: string) => boolean): void {
  const unknown: string[] = []
  let numRecipients = 0
  let rest = takeFields(fields, text, isTool)
  while (rest !== '') {
    const word = firstWord(rest)
    unknown.push(word)
    numRecipients = fields.recipients.length
    rest = takeFields(fields, rest.slice(word.length), isTool)
  }
  const last = unknown.at(-1)
  if (last !== undefined && fields.contentType === undefined && isType(last, fields.recipients.length > 0)) {
    fields.contentType = last
    if (fields.recipients.length > numRecipients) fields.flaws.push('word-order')
    unknown.pop()
  }
  if (unknown.length > 0) fields.flaws.push('leftover')
}

/** A word after a recipient is a content type, as the reference has it; elsewhere it must look like one. */
function isType(word: string, afterRecipient: boolean): boolean {
  return afterRecipient ? /^[a-z][\w+./-]*$/i.test(word) : /^(?:json|code|text|[a-z]+\/[\w+.-]+)$/i.test(word)
}

export function firstWord(text: string): string {
  return /^\S*/.exec(text)![0]
}
