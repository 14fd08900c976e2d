/** How text from outside is shown: as the reference pastes it, or so that it cannot break out. */
import { readJson } from './json.ts'
import type { JsonSchemaSource } from './message.ts'
import { checkHeaderPart, checkToolName } from './names.ts'
import { readSchema } from './schema.ts'
import { printSchema, rawQuoting, safeQuoting } from './schema-print.ts'
import { readReferenceSchema } from './schema-reference.ts'
import { commented, everyLineOf, linesOf, oneLine } from './text-lines.ts'

export interface Style {
  /** The lines of a description, for comments. */
  lines(text: string): string[]
  /** Text that shares a line with words of ours. */
  inLine(text: string): string
  /** The lines of a namespace that has no tools and so no comment to stand in. */
  bareLines(text: string): string[]
  checkToolName(name: string, what: string): void
  checkHeaderPart(value: string, what: string): void
  schema(source: JsonSchemaSource, param: string): string
}

/** As openai-harmony 0.0.8 does, including what breaks. */
export const referenceStyle: Style = {
  lines: linesOf,
  inLine: text => text,
  bareLines: linesOf,
  checkToolName: () => {},
  checkHeaderPart: () => {},
  schema: (source, param) => printSchema(readReferenceSchema(readJson(source, param)), rawQuoting),
}

/** The same for harmless text; names that could forge are refused, other text is kept in its place. */
export const safeStyle: Style = {
  lines: everyLineOf,
  inLine: oneLine,
  bareLines: text => commented(everyLineOf(text)),
  checkToolName,
  checkHeaderPart,
  schema: (source, param) => printSchema(readSchema(readJson(source, param), param), safeQuoting),
}
