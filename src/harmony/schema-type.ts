/** What a JSON Schema says, as far as the prompt can tell: between reading a schema and printing it. */
import type { Json } from './json.ts'

export type SchemaType =
  /** `any`, `string`, `number | null`, the name of a definition: printed as it is. */
  | { kind: 'text'; text: string }
  /** A choice among strings. */
  | { kind: 'enum'; values: string[] }
  /** A choice among types, on one line. */
  | { kind: 'union'; parts: SchemaType[] }
  /** A choice among types, one a line, each with its comment. */
  | { kind: 'variants'; variants: Variant[] }
  | { kind: 'array'; items?: SchemaType }
  /** An array whose first items have types of their own; `rest` is undefined where no more may follow. */
  | { kind: 'tuple'; items: SchemaType[]; rest?: SchemaType }
  | { kind: 'object'; description?: string; properties: Property[]; signatures?: Signature[] }
  /** A definition that holds itself: `name` stands for it inside. */
  | { kind: 'named'; name: string; type: SchemaType }

export interface Variant {
  type: SchemaType
  nullable: boolean
  description?: string
  /** Undefined where there is none; null is a default like any other. */
  default?: Json
  /** Whether the schema has an `enum`: such defaults are words rather than strings. */
  isEnum: boolean
}

export interface Property extends Variant {
  key: string
  required: boolean
  title?: string
  /** Only those that are strings; undefined where the schema has none, empty where none is a string. */
  examples?: string[]
}

/** The type of properties that have no name: all others, or those that match a pattern. */
export interface Signature {
  type: SchemaType
  pattern?: string
}
