/**
 * Prints a schema's type in the layout of openai-harmony, TypeScript in looks: 4 columns more per object, 3 per variant,
 * a closing brace at the inner level, no parentheses around choices of words.
 */
import { type Json, writeSerdeJson } from './json.ts'
import type { Property, SchemaType, Signature, Variant } from './schema-type.ts'
import { escapeLineBreaks, everyLineOf, hasLineBreak, oneLine } from './text-lines.ts'

/** How text of a schema is put into comments, strings and keys. */
export interface Quoting {
  key(text: string): string
  string(text: string): string
  /** A default that is one of an enum's words. */
  word(text: string): string
  json(value: Json): string
  /** A comment above: each line gets its own `// `. */
  commentLines(text: string): string[]
  /** A comment behind something. */
  trailing(text: string): string
  /** Whether what follows a comment behind the last variant must not be swallowed by it. */
  closesComments: boolean
}

/** As the reference: pasted. A line break in a description ends the comment, a quote ends a string. */
export const rawQuoting: Quoting = {
  key: text => text,
  string: text => `"${text}"`,
  word: text => text,
  json: writeSerdeJson,
  commentLines: text => [text],
  trailing: text => text,
  closesComments: false,
}

/** Equal to the raw one for harmless text; whatever the text, it stays inside its comment, string or key. */
export const safeQuoting: Quoting = {
  key: text => (plainKey.test(text) ? text : quoted(text)),
  string: quoted,
  word: text => (hasLineBreak(text) ? quoted(text) : text),
  json: value => escapeLineBreaks(writeSerdeJson(value)),
  commentLines: text => (text === '' ? [''] : everyLineOf(text)),
  trailing: oneLine,
  closesComments: true,
}

/** Keys that need no quotes: words in any script, and what people join words with. */
const plainKey = /^[\p{L}\p{M}\p{N}_$](?:[\p{L}\p{M}\p{N}_$.-]*[\p{L}\p{M}\p{N}_$-])?$/u

function quoted(text: string): string {
  return escapeLineBreaks(JSON.stringify(text))
}

/** The text of a whole schema, to stand in `type f = (_: …) => any;`. */
export function printSchema(type: SchemaType, quoting: Quoting): string {
  return new Printer(quoting).whole(type)
}

class Printer {
  readonly #quoting: Quoting

  constructor(quoting: Quoting) {
    this.#quoting = quoting
  }

  whole(type: SchemaType): string {
    return this.#closed(type, '')
  }

  #type(type: SchemaType, indent: string): string {
    switch (type.kind) {
      case 'text':
        return type.text
      case 'enum':
        return type.values.map(value => this.#quoting.string(value)).join(' | ')
      case 'union':
        return type.parts.map(part => this.#closed(part, indent)).join(' | ')
      case 'variants':
        return type.variants.map(variant => `\n${indent} | ${this.#variant(variant, indent)}`).join('')
      case 'array':
        return this.#array(type.items, indent)
      case 'tuple':
        return this.#tuple(type.items, type.rest, indent)
      case 'object':
        return this.#object(type, indent)
      case 'named':
        return `${indent}// type ${type.name}\n${this.#type(type.type, indent)}`
      default:
        return type satisfies never
    }
  }

  /** A type that something follows. */
  #closed(type: SchemaType, indent: string): string {
    const text = this.#type(type, indent)
    return this.#quoting.closesComments && endsInComment(type) ? `${text}\n${indent}` : text
  }

  #array(items: SchemaType | undefined, indent: string): string {
    if (items === undefined) return 'Array<any>'
    const text = this.#closed(items, indent)
    return items.kind === 'union' ? `(${text})[]` : `${text}[]`
  }

  #tuple(items: SchemaType[], rest: SchemaType | undefined, indent: string): string {
    const parts = items.map(item => this.#closed(item, indent))
    if (rest !== undefined) parts.push(`...${this.#array(rest, indent)}`)
    return `[${parts.join(', ')}]`
  }

  #object(type: SchemaType & { kind: 'object' }, indent: string): string {
    const lines = type.properties.flatMap(property => this.#property(property, indent))
    lines.push(...(type.signatures ?? []).map(signature => this.#signature(signature, indent)))
    const above = type.description === undefined ? [] : this.#comment(type.description, indent)
    return [...above, '{', ...lines, `${indent}}`].join('\n')
  }

  #comment(text: string, indent: string): string[] {
    return this.#quoting.commentLines(text).map(line => `${indent}// ${line}`)
  }

  #property(property: Property, indent: string): string[] {
    const { title, examples, type } = property
    const above: string[] = []
    if (title !== undefined) above.push(...this.#comment(title, indent), `${indent}//`)
    const description = property.description === undefined ? [] : this.#comment(property.description, indent)
    if (type.kind !== 'variants') above.push(...description)
    if (examples !== undefined) {
      above.push(`${indent}// Examples:`, ...examples.map(example => `${indent}// - ${this.#quoting.string(example)}`))
    }
    const name = `${indent}${this.#quoting.key(property.key)}${property.required ? '' : '?'}:`
    if (type.kind === 'variants') return [...above, ...this.#choice(property, type.variants, name, indent)]
    const behind = property.default === undefined ? '' : ` // default: ${this.#default(property, true)}`
    return [...above, `${name} ${this.#nullable(property, `${indent}    `)},${behind}`]
  }

  /** A property that is one of several variants. What describes it stands above, unless the first variant says it. */
  #choice(property: Property, variants: Variant[], name: string, indent: string): string[] {
    const lines: string[] = []
    const { description } = property
    const isAbove = description !== undefined && description !== variants[0]?.description
    if (isAbove) lines.push(...this.#comment(description, indent))
    if (property.default !== undefined) lines.push(`${indent}// default: ${this.#default(property, true)}`)
    lines.push(name)
    variants.forEach((variant, i) => {
      const saidAbove = (i === 0 && isAbove) || variant.description === description
      const shown = saidAbove ? { ...variant, description: undefined } : variant
      lines.push(`${indent} | ${this.#variant(shown, indent, true)}`)
    })
    return [...lines, `${indent},`]
  }

  #variant(variant: Variant, indent: string, ofProperty = false): string {
    const comments = variant.description === undefined ? [] : [variant.description]
    if (variant.default !== undefined) comments.push(`default: ${this.#default(variant, ofProperty)}`)
    const behind = comments.length === 0 ? '' : ` // ${this.#quoting.trailing(comments.join(' '))}`
    return this.#nullable(variant, `${indent}   `) + behind
  }

  #nullable({ type, nullable }: Variant, indent: string): string {
    const text = this.#type(type, indent)
    return nullable && !text.includes('null') ? `${text} | null` : text
  }

  #default({ default: value, isEnum }: Variant, enumAsWord: boolean): string {
    if (typeof value !== 'string') return this.#quoting.json(value ?? null)
    if (!isEnum) return this.#quoting.string(value)
    return enumAsWord ? this.#quoting.word(value) : this.#quoting.json(value)
  }

  #signature({ type, pattern }: Signature, indent: string): string {
    const behind = pattern === undefined ? '' : ` // keys match ${this.#quoting.string(pattern)}`
    return `${indent}[key: string]: ${this.#closed(type, `${indent}    `)},${behind}`
  }
}

function endsInComment(type: SchemaType): boolean {
  if (type.kind === 'named') return endsInComment(type.type)
  if (type.kind !== 'variants') return false
  const last = type.variants.at(-1)
  if (last === undefined) return false
  return last.description !== undefined || last.default !== undefined || endsInComment(last.type)
}
