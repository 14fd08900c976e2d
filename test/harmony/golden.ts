/** The Harmony goldens, and the calls that they describe, made with our renderer. */
import { readdirSync, readFileSync } from 'node:fs'
import type { Message, Role } from '../../src/harmony/message.ts'
import {
  type RenderOptions,
  renderConversation,
  renderForCompletion,
  renderForTraining,
  renderMessage,
} from '../../src/harmony/render.ts'
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts'

const folder = new URL('../golden/harmony/', import.meta.url)

export interface Call {
  render: 'conversation' | 'completion' | 'training' | 'message'
  autoDropAnalysis?: boolean
  nextRole?: string
  index?: number
  conversationHasFunctionTools?: boolean
}

export type Outcome = { calls: Call[] } & ({ text: string; ids: number[] } | { error: string })

export interface ConversationCase {
  name: string
  what: string
  messages: Message[]
  expected: Outcome[]
}

export interface SchemaCase {
  name: string
  group: string
  parameters?: unknown
  /** Instead of `parameters`, where JSON.parse would lose its meaning. */
  parametersText?: string
  text?: string
  error?: string
}

export function readGolden<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(name, folder), 'utf8')) as T
}

export function conversationCases(): ConversationCase[] {
  const names = readdirSync(new URL('conversations/', folder)).sort()
  return names.map(name => readGolden<ConversationCase>(`conversations/${name}`))
}

export function schemaCases(): SchemaCase[] {
  return readGolden<{ cases: SchemaCase[] }>('schema.json').cases
}

/** One call of a golden; strict unless other options are given. */
export function renderCall(
  tokenizer: Tokenizer,
  messages: readonly Message[],
  call: Call,
  options: RenderOptions = { mode: 'strict', history: call.autoDropAnalysis ? 'reference' : 'keep' },
): number[] {
  switch (call.render) {
    case 'conversation':
      return renderConversation(tokenizer, messages, options)
    case 'completion':
      return renderForCompletion(tokenizer, messages, call.nextRole as Role, options)
    case 'training':
      return renderForTraining(tokenizer, messages, options)
    case 'message':
      return renderMessage(tokenizer, messages[call.index!], {
        ...options,
        functionTools: call.conversationHasFunctionTools,
      })
    default:
      return call.render satisfies never
  }
}

/** The developer message that schema goldens were taken from: one function `f`, described as `about`. */
export function schemaMessage(schema: SchemaCase): Message {
  const parameters = schema.parametersText === undefined ? schema.parameters : { json: schema.parametersText }
  const tool = { name: 'f', description: 'about', parameters: parameters as object }
  const content = { type: 'developer' as const, tools: [{ name: 'functions', tools: [tool] }] }
  return { role: 'developer', content: [content] }
}

const before = '<|start|>developer<|message|># Tools\n\n## functions\n\nnamespace functions {\n\n// about\n'
const after = '\n\n} // namespace functions<|end|>'

/** The text of `type f = …;` alone. */
export function schemaText(tokenizer: Tokenizer, schema: SchemaCase, options: RenderOptions): string {
  const text = tokenizer.decode(renderMessage(tokenizer, schemaMessage(schema), options))
  if (!text.startsWith(before) || !text.endsWith(after)) return text
  return text.slice(before.length, -after.length)
}

/** A schema as JSON text. */
export function schemaJson(schema: SchemaCase): string {
  return schema.parametersText ?? JSON.stringify(schema.parameters)
}
