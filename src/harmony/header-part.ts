import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { createChannelReader } from './header-channel.ts'
import { type Fields, firstWord, noFields, takeAllFields, takeConstrained, takeFields } from './header-fields.ts'
import type { RoleReading } from './header-role.ts'
import type { Group, Segment } from './header-segments.ts'
import type { Channel } from './message.ts'
import type { RepairKind } from './repair.ts'
import { CHANNEL, CONSTRAIN } from './tokens.ts'

/** What a header says between two `<|channel|>`. */
export interface Part {
  group: Group
  channel: Channel | undefined
  fields: Fields
  flaws: RepairKind[]
}

// Names that are tools' even where none is declared.
const NAMESPACED = /^(?:functions\.|browser\.|container\.)[\w.-]+$|^python$/
const noTool = () => false

/**
 * A reader of parts. `whole`: the part stands directly before `<|message|>`, all its words are fields, a tool's name
 * without `to=` too. Otherwise what follows the fields is text.
 */
export function createPartReader(tokenizer: Tokenizer, isDeclared: (name: string) => boolean) {
  const channels = createChannelReader(tokenizer)
  const isTool = (word: string) => NAMESPACED.test(word) || isDeclared(word)

  return (group: Group, whole: boolean, role: RoleReading): Part =>
    group.segments[0].marker === CHANNEL ? readMarked(group, whole) : readUnmarked(group, whole, role)

  function readMarked(group: Group, whole: boolean): Part {
    const [{ text, tokens }] = group.segments
    const { channel, rest, flaw } = whole ? channels.word(text, isTool) : channels.prefix(text, tokens.slice(1))
    return readFields(group, channel, flaw, rest, whole)
  }

  /** What stands before the first `<|channel|>`: fields if a recipient is among them, else text. */
  function readUnmarked(group: Group, whole: boolean, { text, numTokens }: RoleReading): Part {
    const name = channels.bareName(text)
    if (whole && name !== undefined) {
      // Without its marker it is an answer only in a header that says nothing else: `final…analysis` is a thought.
      const isThought = name === 'final' && group.segments.slice(1).some(({ text }) => text.trim() !== '')
      return readFields(group, isThought ? 'analysis' : name, 'missing-marker', '', true)
    }
    if (channels.isAnalysis(group.segments[0].tokens.slice(numTokens))) {
      return readFields(group, 'analysis', 'missing-marker', text.slice('analysis'.length), false)
    }
    const words = text.trim()
    if (isTool(words) || (whole && isTool(firstWord(words)))) return readFields(group, undefined, undefined, text, true)
    const part = readFields(group, undefined, undefined, text, false)
    return whole && part.fields.recipients.length > 0 ? readFields(group, undefined, undefined, text, true) : part
  }

  function readFields(
    group: Group,
    channel: Channel | undefined,
    flaw: RepairKind | undefined,
    text: string,
    whole: boolean,
  ): Part {
    const fields = noFields()
    const flaws = flaw === undefined ? [] : [flaw]
    const read = (text: string) => {
      if (whole) takeAllFields(fields, text, isTool)
      else if (fields.rest === '') fields.rest = takeFields(fields, text, noTool)
      else fields.rest += text
    }
    read(text)
    for (const segment of group.segments) {
      if (segment.marker === undefined || segment.marker === CHANNEL) continue
      if (segment.marker === CONSTRAIN && fields.rest === '') read(takeConstrained(fields, segment.text))
      else {
        flaws.push(tokenizer.tokenBytes(segment.marker) === undefined ? 'unknown-id' : 'stray-token')
        read(whole ? afterBrokenName(segment) : segment.text)
      }
    }
    return { group, channel, fields, flaws: [...flaws, ...fields.flaws] }
  }
}

/** A control token without a place in a header ends the name that it stands in; the name's other half means nothing. */
function afterBrokenName({ text }: Segment): string {
  return text.slice(firstWord(text).length)
}
