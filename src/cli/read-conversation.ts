import { RequestError } from '../base/errors.ts'
import type { Message } from '../harmony/message.ts'
import { ROLES } from '../harmony/tokens.ts'
import { didYouMean } from './options.ts'

/** Throws RequestError, naming the place, if the value is not what it must be. */
type Check = (value: unknown, place: string) => void

/**
 * The messages in a JSON text: an array of them, or an object that has them as `messages`, as
 * `src/harmony/message.ts` describes them. Throws RequestError that names the field at fault.
 */
export function readConversation(json: string): Message[] {
  const value = parse(json)
  const messages = isObject(value) && 'messages' in value ? value.messages : value
  checkMessages(messages, 'messages')
  return messages as Message[]
}

function parse(json: string): unknown {
  try {
    return JSON.parse(json)
  } catch (error) {
    throw new RequestError(`the conversation is no JSON: ${(error as Error).message}`)
  }
}

const isString: Check = (value, place) => {
  if (typeof value !== 'string') fail(place, 'a string', value)
}

const isTokenId: Check = (value, place) => {
  if (!Number.isInteger(value) || (value as number) < 0) fail(place, 'a token id', value)
}

const oneOf =
  (choices: readonly string[]): Check =>
  (value, place) => {
    if (!choices.some(choice => choice === value)) fail(place, `one of ${choices.join(', ')}`, value)
  }

const optional =
  (check: Check): Check =>
  (value, place) => {
    if (value !== undefined && value !== null) check(value, place)
  }

const listOf =
  (check: Check): Check =>
  (value, place) => {
    if (!Array.isArray(value)) return fail(place, 'an array', value)
    for (const [i, element] of value.entries()) check(element, `${place}[${i}]`)
  }

const objectWith =
  (fields: Record<string, Check>): Check =>
  (value, place) => {
    if (!isObject(value)) return fail(place, 'an object', value)
    for (const name of Object.keys(value)) {
      if (Object.hasOwn(fields, name)) continue
      throw new RequestError(
        `${place}.${name} is no field of it (${Object.keys(fields).join(', ')})${didYouMean(name, fields, '')}`,
      )
    }
    for (const [name, check] of Object.entries(fields)) check(value[name], `${place}.${name}`)
  }

const isSchema: Check = (value, place) => {
  if (!isObject(value) && typeof value !== 'boolean') fail(place, 'a JSON Schema', value)
}

const isNamespace = objectWith({
  name: isString,
  description: optional(isString),
  tools: listOf(objectWith({ name: isString, description: isString, parameters: optional(isSchema) })),
})

const isToolConfig: Check = (value, place) => {
  if (typeof value === 'string') oneOf(['browser', 'python'])(value, place)
  else isNamespace(value, place)
}

const parts: Record<string, Check> = {
  text: objectWith({ type: isString, text: isString }),
  system: objectWith({
    type: isString,
    identity: optional(isString),
    knowledgeCutoff: optional(isString),
    conversationStartDate: optional(isString),
    reasoningEffort: optional(oneOf(['low', 'medium', 'high'])),
    requiredChannels: optional(listOf(isString)),
    validChannels: optional(listOf(isString)),
    tools: optional(listOf(isToolConfig)),
  }),
  developer: objectWith({
    type: isString,
    instructions: optional(isString),
    tools: optional(listOf(isToolConfig)),
    responseFormats: optional(
      listOf(objectWith({ name: isString, description: optional(isString), schema: isSchema })),
    ),
  }),
}

const isPart: Check = (value, place) => {
  if (!isObject(value)) return fail(place, 'an object', value)
  oneOf(Object.keys(parts))(value.type, `${place}.type`)
  parts[value.type as string](value, place)
}

const isContent: Check = (value, place) => {
  if (typeof value === 'string') return
  if (!Array.isArray(value)) return fail(place, 'a string or an array of parts', value)
  listOf(isPart)(value, place)
}

const checkMessages: Check = listOf(
  objectWith({
    role: oneOf(ROLES),
    name: optional(isString),
    recipient: optional(isString),
    channel: optional(isString),
    contentType: optional(isString),
    content: isContent,
    tokens: optional(listOf(isTokenId)),
  }),
)

function fail(place: string, expected: string, value: unknown): never {
  const found = value === undefined ? 'missing' : JSON.stringify(value)
  const shown = found.length > 60 ? `${found.slice(0, 57)}…` : found
  throw new RequestError(`${place} is ${shown}, and must be ${expected}`)
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
