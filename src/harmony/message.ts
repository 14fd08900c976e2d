/** Roles in falling authority: the model obeys the earlier over the later. */
export type Role = 'system' | 'developer' | 'user' | 'assistant' | 'tool'

/** The channels that gpt-oss was trained on. A parsed message can hold any text there; ours never write another. */
export type Channel = 'analysis' | 'commentary' | 'final'

export type ReasoningEffort = 'low' | 'medium' | 'high'

/** JSON text, or the value that it stands for. Text keeps what `JSON.parse` loses: `1.0`, key order, big integers. */
export type JsonSchemaSource = { json: string } | object | boolean

/** A function offered to the model. */
export interface ToolDescription {
  name: string
  description: string
  /** JSON Schema of the argument object; absent or null: the function takes none. */
  parameters?: JsonSchemaSource | null
}

/** Tools under one name: `functions` for the caller's own, others for families of built-in or remote tools. */
export interface ToolNamespace {
  name: string
  description?: string | null
  tools: ToolDescription[]
}

/** `'browser'` and `'python'` stand for the built-in texts that the model was trained on. */
export type ToolConfig = 'browser' | 'python' | ToolNamespace

/** What the system message says. A section that is null is left out. */
export interface SystemContent {
  type: 'system'
  identity?: string | null
  /** `YYYY-MM` */
  knowledgeCutoff?: string | null
  /** `YYYY-MM-DD` */
  conversationStartDate?: string | null
  reasoningEffort?: ReasoningEffort | null
  /** Listed with the sentence that a channel must be included for every message. */
  requiredChannels?: string[] | null
  /** Listed without it. */
  validChannels?: string[] | null
  tools?: ToolConfig[] | null
}

/** A format for the final answer, listed at the end of the developer message. */
export interface ResponseFormat {
  name: string
  description?: string
  schema: JsonSchemaSource
}

/** What the developer message says. A section that is null is left out. */
export interface DeveloperContent {
  type: 'developer'
  instructions?: string | null
  tools?: ToolConfig[] | null
  responseFormats?: ResponseFormat[] | null
}

export interface TextContent {
  type: 'text'
  text: string
}

export type Content = TextContent | SystemContent | DeveloperContent

/** One Harmony message. Absent header fields are not set; an empty string is set, and printed. */
export interface Message {
  role: Role
  /** A tool message's name is the tool's (`functions.get_weather`), and stands where others have their role. */
  name?: string
  recipient?: string
  channel?: string
  contentType?: string
  content: string | Content[]
  /**
   * The ids that the model itself wrote for this message, from after `<|start|>assistant` to the token before its end.
   * Rendered as they are, so that the next prompt is what was said.
   */
  tokens?: readonly number[]
}

/** The text of a message whose content is text; system and developer parts count as empty. */
export function textOf(message: Message): string {
  if (typeof message.content === 'string') return message.content
  return message.content.map(part => (part.type === 'text' ? part.text : '')).join('')
}
