/**
 * Messages to token ids. Text from outside is encoded as ordinary text, piece by piece: no content, name or schema can
 * give a control token, and no token spans two pieces. Source: openai/harmony, `docs/format.md`, `src/encoding.rs`.
 */
import { HarmonyError } from '../base/errors.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { contentTexts, hasFunctionTools } from './content.ts'
import { type History, historyOf } from './history.ts'
import type { Message, Role } from './message.ts'
import { usableTokens } from './own-tokens.ts'
import { referenceStyle, type Style, safeStyle } from './style.ts'
import {
  CALL,
  CHANNEL,
  CONSTRAIN,
  CONSTRAIN_MARKER,
  END,
  isRole,
  MESSAGE,
  RECIPIENT_ALL,
  RETURN,
  ROLES,
  START,
} from './tokens.ts'

export interface RenderOptions {
  /**
   * `default` refuses names that could forge and keeps text in its place; `strict` is openai-harmony 0.0.8, id by id,
   * and knows neither `Message.tokens` nor most of JSON Schema.
   */
  mode?: 'default' | 'strict'
  /** What is left of past turns: `drop` by default, `reference` in strict mode. */
  history?: History
  /** Whether system messages say where function calls go. By default: if the messages offer functions. */
  functionTools?: boolean
}

/** Every message of a conversation that its history rule keeps. Throws HarmonyError, RequestError for schemas. */
export function renderConversation(
  tokenizer: Tokenizer,
  messages: readonly Message[],
  options: RenderOptions = {},
): number[] {
  const renderer = new Renderer(tokenizer, options.mode, options.functionTools ?? hasFunctionTools(messages))
  const history = options.history ?? (options.mode === 'strict' ? 'reference' : 'drop')
  for (const message of historyOf(messages, history)) renderer.message(message)
  return renderer.ids
}

/** The prompt for one more message: the conversation, then `<|start|>` and the role that speaks next. */
export function renderForCompletion(
  tokenizer: Tokenizer,
  messages: readonly Message[],
  nextRole: Role = 'assistant',
  options: RenderOptions = {},
): number[] {
  checkRole(nextRole)
  const ids = renderConversation(tokenizer, messages, options)
  ids.push(START, ...tokenizer.encode(nextRole))
  return ids
}

/** A training target: as a conversation, but an answer in the end ends in `<|return|>`, as the model must learn it. */
export function renderForTraining(
  tokenizer: Tokenizer,
  messages: readonly Message[],
  options: RenderOptions = {},
): number[] {
  const ids = renderConversation(tokenizer, messages, options)
  const last = messages.at(-1)
  if (last?.role === 'assistant' && last.channel === 'final') ids[ids.length - 1] = RETURN
  return ids
}

/** One message alone; `options.history` has no meaning here. */
export function renderMessage(tokenizer: Tokenizer, message: Message, options: RenderOptions = {}): number[] {
  const renderer = new Renderer(tokenizer, options.mode, options.functionTools ?? hasFunctionTools([message]))
  renderer.message(message)
  return renderer.ids
}

function checkRole(role: string): void {
  if (!isRole(role)) throw new HarmonyError(`${JSON.stringify(role)} is no role; use one of ${ROLES.join(', ')}`)
}

class Renderer {
  readonly ids: number[] = []
  readonly #tokenizer: Tokenizer
  readonly #style: Style
  readonly #functionTools: boolean

  constructor(tokenizer: Tokenizer, mode: RenderOptions['mode'] = 'default', functionTools: boolean) {
    this.#tokenizer = tokenizer
    this.#style = mode === 'strict' ? referenceStyle : safeStyle
    this.#functionTools = functionTools
  }

  message(message: Message): void {
    checkRole(message.role)
    this.#control(START)
    const own = this.#style === safeStyle ? usableTokens(message, this.#tokenizer) : undefined
    if (own === undefined) {
      this.#header(message)
      for (const text of contentTexts(message, this.#functionTools, this.#style)) this.#text(text)
    } else {
      this.#text(message.role)
      for (const id of own) this.ids.push(id)
    }
    this.#control(message.role === 'assistant' && message.recipient !== undefined ? CALL : END)
  }

  #header({ role, name, recipient, channel, contentType }: Message): void {
    this.#author(role, name)
    if (recipient !== undefined) {
      this.#style.checkHeaderPart(recipient, 'a recipient')
      if (recipient !== RECIPIENT_ALL) this.#text(` to=${recipient}`)
    }
    if (channel !== undefined) {
      this.#style.checkHeaderPart(channel, 'a channel')
      this.#control(CHANNEL)
      this.#text(channel)
    }
    if (contentType !== undefined) this.#contentType(contentType)
    this.#control(MESSAGE)
  }

  /** A tool's name stands in the role's place; others have theirs behind it. */
  #author(role: Role, name: string | undefined): void {
    if (role === 'tool') {
      if (name === undefined)
        throw new HarmonyError("a tool's message has no name; give the tool's, as in functions.get_weather")
      this.#style.checkToolName(name, "a tool's message")
      this.#text(name)
      return
    }
    this.#text(role)
    if (name === undefined) return
    this.#style.checkHeaderPart(name, `the name of ${role}`)
    this.#text(`:${name}`)
  }

  /** What begins with `<|constrain|>` is the control token, by which the model promises the type that follows. */
  #contentType(contentType: string): void {
    const isConstrained = contentType.startsWith(CONSTRAIN_MARKER)
    const rest = isConstrained ? contentType.slice(CONSTRAIN_MARKER.length) : contentType
    this.#style.checkHeaderPart(rest, 'a content type')
    if (isConstrained) {
      this.#text(' ')
      this.#control(CONSTRAIN)
      this.#text(rest)
    } else this.#text(` ${rest}`)
  }

  #control(id: number): void {
    this.ids.push(id)
  }

  /** A loop rather than a spread: a text may have more tokens than a call may have arguments. */
  #text(text: string): void {
    if (text === '') return
    for (const id of this.#tokenizer.encode(text)) this.ids.push(id)
  }
}
