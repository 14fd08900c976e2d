import { RequestError } from '../base/errors.ts'
import type { Message, ReasoningEffort, ToolConfig, ToolDescription } from '../harmony/message.ts'
import { defaultSystemMessage, developerMessage } from '../harmony/messages.ts'

/** What stands above the user's words in a conversation. */
export interface Instructions {
  /** How long the model may think. Default: medium; gpt-oss-nano, which has little to think, low. */
  reasoning?: ReasoningEffort
  /** Instructions of whoever built the application: they outrank the user's. */
  developer?: string
  /** Functions that the model may call. A call ends the turn; the caller runs it and responds again. */
  tools?: ToolDescription[]
  /** `YYYY-MM-DD`, told to the model. Default: today. */
  date?: string
}

/**
 * A question, or a conversation, headed by what its options say. A system message of its own stays as it is, so that
 * `reasoning` and `date` then have no effect. Throws RequestError when there is no message.
 */
export function conversation(input: string | readonly Message[], instructions: Instructions = {}): Message[] {
  const given: readonly Message[] = typeof input === 'string' ? [{ role: 'user', content: input }] : input
  if (given.length === 0) {
    throw new RequestError('the conversation is empty: give at least one message', { param: 'input' })
  }
  const { developer, tools = [] } = instructions
  const above = developer !== undefined || tools.length > 0
  const systemEnd = given.findLastIndex(message => message.role === 'system') + 1
  const system = systemEnd === 0 ? [systemMessage(instructions)] : given.slice(0, systemEnd)
  const heading = above ? [developerMessage({ instructions: developer, functions: tools })] : []
  return [...system, ...heading, ...given.slice(systemEnd)]
}

/** The system message that gpt-oss was trained with, dated. */
export function systemMessage({ reasoning, date = today() }: Instructions = {}): Message {
  return defaultSystemMessage({ reasoningEffort: reasoning, date })
}

/** Full names of the tools that a conversation offers: what a call may have as its recipient. */
export function declaredTools(messages: readonly Message[]): string[] {
  return messages.flatMap(({ content }) => {
    if (typeof content === 'string') return []
    return content.flatMap(part => (part.type === 'text' ? [] : (part.tools ?? []).flatMap(namesOf)))
  })
}

function namesOf(config: ToolConfig): string[] {
  if (config === 'python') return ['python']
  if (config === 'browser') return ['browser.search', 'browser.open', 'browser.find']
  return config.tools.map(tool => `${config.name}.${tool.name}`)
}

function today(): string {
  const now = new Date()
  const two = (n: number) => String(n).padStart(2, '0')
  return `${now.getFullYear()}-${two(now.getMonth() + 1)}-${two(now.getDate())}`
}
