/** Contents as text: what stands between `<|message|>` and the end. */
import { HarmonyError } from '../base/errors.ts'
import { readJson, writeJson } from './json.ts'
import type { Content, DeveloperContent, Message, ResponseFormat, SystemContent } from './message.ts'
import type { Style } from './style.ts'
import { commented, escapeLineBreaks } from './text-lines.ts'
import { namespacesOf, toolsSection } from './tools.ts'

/** One text per part; each is encoded on its own, so that no token spans two. */
export function contentTexts(message: Message, hasFunctionTools: boolean, style: Style): string[] {
  if (typeof message.content === 'string') return [message.content]
  return message.content.map(part => partText(part, message.role, hasFunctionTools, style))
}

function partText(part: Content, role: string, hasFunctionTools: boolean, style: Style): string {
  switch (part.type) {
    case 'text':
      return part.text
    case 'system':
      if (role !== 'system') throw misplaced('system', role)
      return systemText(part, hasFunctionTools, style)
    case 'developer':
      if (role !== 'developer') throw misplaced('developer', role)
      return developerText(part, style)
    default:
      throw new HarmonyError(
        `a content part has type ${JSON.stringify((part as Content).type)}; use text, system or developer`,
      )
  }
}

function misplaced(kind: string, role: string): HarmonyError {
  return new HarmonyError(
    `a ${kind} content part stands in a message with role ${role}; only ${kind} messages may hold it`,
  )
}

/**
 * Identity and dates, reasoning effort, built-in tools, channels: sections between blank lines, each left out where
 * it is null. Source: openai/harmony, `docs/format.md`.
 */
function systemText(content: SystemContent, hasFunctionTools: boolean, style: Style): string {
  const { identity, knowledgeCutoff, conversationStartDate, reasoningEffort, tools } = content
  const top: string[] = []
  if (isGiven(identity)) top.push(identity)
  if (isGiven(knowledgeCutoff)) top.push(`Knowledge cutoff: ${style.inLine(knowledgeCutoff)}`)
  if (isGiven(conversationStartDate)) top.push(`Current date: ${style.inLine(conversationStartDate)}`)

  const sections: string[] = []
  if (top.length > 0) sections.push(top.join('\n'))
  if (isGiven(reasoningEffort)) sections.push(`Reasoning: ${effort(reasoningEffort)}`)
  if (tools && tools.length > 0) sections.push(toolsSection(tools, style))
  const channels = channelsText(content, hasFunctionTools, style)
  if (channels !== undefined) sections.push(channels)
  return sections.join('\n\n')
}

function effort(value: string): string {
  if (value === 'low' || value === 'medium' || value === 'high') return value
  throw new HarmonyError(`reasoningEffort is ${JSON.stringify(value)}; gpt-oss knows low, medium and high`)
}

function channelsText(content: SystemContent, hasFunctionTools: boolean, style: Style): string | undefined {
  const { requiredChannels, validChannels } = content
  const channels = requiredChannels ?? validChannels ?? []
  if (channels.length === 0) return undefined
  let text = `# Valid channels: ${style.inLine(channels.join(', '))}.`
  if (isGiven(requiredChannels)) text += ' Channel must be included for every message.'
  if (hasFunctionTools) text += "\nCalls to these tools must go to the commentary channel: 'functions'."
  return text
}

function developerText({ instructions, tools, responseFormats }: DeveloperContent, style: Style): string {
  const sections: string[] = []
  if (isGiven(instructions)) sections.push('# Instructions', instructions)
  if (tools && tools.length > 0) sections.push(toolsSection(tools, style))
  if (responseFormats && responseFormats.length > 0) {
    sections.push('# Response Formats', ...responseFormats.map(format => responseFormatText(format, style)))
  }
  return sections.join('\n\n')
}

/** The schema stands there as JSON, not as TypeScript. */
function responseFormatText({ name, description, schema }: ResponseFormat, style: Style): string {
  style.checkToolName(name, 'a response format')
  const comment = commented(style.lines(description ?? ''))
  const json = escapeLineBreaks(writeJson(readJson(schema, `${name}.schema`)))
  return `## ${name}\n\n${[...comment, json].join('\n')}`
}

function isGiven<T>(value: T | null | undefined): value is T {
  return value !== undefined && value !== null
}

/** Whether the model must be told where function calls go: any developer part, of any message, offers functions. */
export function hasFunctionTools(messages: readonly Message[]): boolean {
  const parts = messages.flatMap(({ content }) => (typeof content === 'string' ? [] : content))
  return parts.some(part => {
    const namespaces = part.type === 'developer' ? namespacesOf(part.tools ?? []) : []
    return namespaces.some(({ name, tools }) => name === 'functions' && tools.length > 0)
  })
}
