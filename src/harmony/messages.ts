/** The messages that people write most, each as one call. */
import type {
  DeveloperContent,
  Message,
  ReasoningEffort,
  ResponseFormat,
  SystemContent,
  ToolConfig,
  ToolDescription,
} from './message.ts'
import { CHANNELS, CONSTRAIN_MARKER } from './tokens.ts'

/** Who the model was trained to be; another identity belongs in the developer message. */
export const IDENTITY = 'You are ChatGPT, a large language model trained by OpenAI.'
export const KNOWLEDGE_CUTOFF = '2024-06'

export interface SystemOptions {
  /** Today as `YYYY-MM-DD`; no date is said unless one is given. */
  date?: string | null
  /** Default: medium. */
  reasoningEffort?: ReasoningEffort
  /** Built-in tools; functions belong in the developer message. */
  tools?: ToolConfig[] | null
  identity?: string | null
  knowledgeCutoff?: string | null
}

/** The system message that gpt-oss was trained with. */
export function defaultSystemMessage(options: SystemOptions = {}): Message {
  const content: SystemContent = {
    type: 'system',
    identity: options.identity === undefined ? IDENTITY : options.identity,
    knowledgeCutoff: options.knowledgeCutoff === undefined ? KNOWLEDGE_CUTOFF : options.knowledgeCutoff,
    conversationStartDate: options.date ?? null,
    reasoningEffort: options.reasoningEffort ?? 'medium',
    requiredChannels: [...CHANNELS],
    tools: options.tools ?? null,
  }
  return { role: 'system', content: [content] }
}

export interface DeveloperOptions {
  instructions?: string | null
  /** The caller's functions: the namespace `functions`. */
  functions?: ToolDescription[] | null
  /** Other namespaces. */
  tools?: ToolConfig[] | null
  responseFormats?: ResponseFormat[] | null
}

/** Instructions, functions and answer formats; what other systems call the system prompt. */
export function developerMessage(options: DeveloperOptions | string): Message {
  const { instructions, functions, tools, responseFormats } =
    typeof options === 'string' ? ({ instructions: options } as DeveloperOptions) : options
  const namespaces: ToolConfig[] = functions?.length ? [{ name: 'functions', tools: functions }] : []
  const content: DeveloperContent = {
    type: 'developer',
    instructions: instructions ?? null,
    tools: tools || namespaces.length > 0 ? [...namespaces, ...(tools ?? [])] : null,
    responseFormats: responseFormats ?? null,
  }
  return { role: 'developer', content: [content] }
}

export function userMessage(text: string): Message {
  return { role: 'user', content: text }
}

/** An answer to the user. */
export function finalMessage(text: string): Message {
  return { role: 'assistant', channel: 'final', content: text }
}

/** A thought, which no user sees. */
export function analysisMessage(text: string): Message {
  return { role: 'assistant', channel: 'analysis', content: text }
}

/** A call of a function: arguments as JSON text, on commentary. */
export function functionCallMessage(name: string, argumentsJson: string): Message {
  return {
    role: 'assistant',
    recipient: `functions.${name}`,
    channel: 'commentary',
    contentType: `${CONSTRAIN_MARKER}json`,
    content: argumentsJson,
  }
}

/** What a tool answers to a call: under the name that was called, on the channel of the call. */
export function toolResultMessage(call: Message, text: string): Message {
  return { role: 'tool', name: call.recipient, recipient: 'assistant', channel: call.channel, content: text }
}
