/** The `# Tools` section: every namespace as TypeScript-like text. */
import { builtinTools } from './builtin-tools.ts'
import type { ToolConfig, ToolDescription, ToolNamespace } from './message.ts'
import type { Style } from './style.ts'
import { commented } from './text-lines.ts'

/** Namespaces in the order of their names' UTF-8; of two with one name the last counts. */
export function namespacesOf(tools: readonly ToolConfig[]): ToolNamespace[] {
  const byName = new Map<string, ToolNamespace>()
  for (const tool of tools) {
    const namespace = typeof tool === 'string' ? builtinTools[tool] : tool
    byName.set(namespace.name, namespace)
  }
  return [...byName.values()].sort((a, b) => compareCodePoints(a.name, b.name))
}

/** UTF-8 sorts as code points do; UTF-16 puts those beyond U+FFFF before U+E000. */
function compareCodePoints(a: string, b: string): number {
  const left = [...a]
  const right = [...b]
  for (let i = 0; i < left.length && i < right.length; i++) {
    const difference = left[i].codePointAt(0)! - right[i].codePointAt(0)!
    if (difference !== 0) return difference
  }
  return left.length - right.length
}

export function toolsSection(tools: readonly ToolConfig[], style: Style): string {
  return ['# Tools', ...namespacesOf(tools).map(namespace => namespaceText(namespace, style))].join('\n\n')
}

function namespaceText(namespace: ToolNamespace, style: Style): string {
  const { name, tools } = namespace
  style.checkToolName(name, 'a namespace')
  const lines = [`## ${name}\n`]
  const description = namespace.description ?? ''
  if (tools.length === 0) {
    lines.push(...(isBuiltin(namespace) ? description.split('\n') : style.bareLines(description)))
    return lines.join('\n')
  }
  lines.push(...commented(style.lines(description)))
  lines.push(`namespace ${name} {\n`)
  for (const tool of tools) lines.push(...toolLines(tool, name, style))
  lines.push(`} // namespace ${name}`)
  return lines.join('\n')
}

function isBuiltin(namespace: ToolNamespace): boolean {
  return Object.values(builtinTools).includes(namespace)
}

function toolLines({ name, description, parameters }: ToolDescription, namespace: string, style: Style): string[] {
  style.checkToolName(name, `a tool of ${namespace}`)
  const comment = commented(style.lines(description))
  if (parameters === undefined || parameters === null) return [...comment, `type ${name} = () => any;\n`]
  return [...comment, `type ${name} = (_: ${style.schema(parameters, `${namespace}.${name}.parameters`)}) => any;\n`]
}
