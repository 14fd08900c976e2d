/**
 * Reads a JSON Schema as openai-harmony 0.0.8 does (`json_schema_to_typescript` in `src/encoding.rs`): it knows `type`,
 * `oneOf`, `properties`, `required`, `items` and string enums; all else is `any`.
 */
import { isList, isObject, type Json, member, textMember } from './json.ts'
import type { Property, SchemaType, Variant } from './schema-type.ts'

export function readReferenceSchema(schema: Json): SchemaType {
  const oneOf = member(schema, 'oneOf')
  if (isList(oneOf)) return { kind: 'variants', variants: oneOf.map(readVariant) }
  const type = member(schema, 'type')
  if (isList(type)) return { kind: 'text', text: typeList(type) }
  switch (type) {
    case 'object':
      return { kind: 'object', description: textMember(schema, 'description'), properties: readProperties(schema) }
    case 'array':
      return readArray(schema)
    case 'string':
      return readString(schema)
    case 'number':
    case 'integer':
      return { kind: 'text', text: 'number' }
    case 'boolean':
      return { kind: 'text', text: 'boolean' }
    default:
      return { kind: 'text', text: 'any' }
  }
}

/** `["integer", "null"]` to `number | null`; unknown names stay as they are. */
function typeList(types: readonly Json[]): string {
  const names = types.filter(type => typeof type === 'string')
  if (names.length === 0) return 'any'
  return names.map(name => (name === 'integer' ? 'number' : name)).join(' | ')
}

function readVariant(schema: Json): Variant {
  return {
    type: readReferenceSchema(schema),
    nullable: member(schema, 'nullable') === true,
    description: textMember(schema, 'description'),
    default: member(schema, 'default'),
    isEnum: hasEnum(schema),
  }
}

function readProperties(schema: Json): Property[] {
  const properties = member(schema, 'properties')
  if (!isObject(properties)) return []
  const required = new Set(listMember(schema, 'required'))
  return [...properties].map(([key, value]) => readProperty(key, value, required.has(key)))
}

function readProperty(key: string, schema: Json, required: boolean): Property {
  const examples = listMember(schema, 'examples')
  const property: Property = {
    ...readVariant(schema),
    key,
    required,
    title: textMember(schema, 'title'),
    examples: examples && examples.length > 0 ? examples.filter(example => typeof example === 'string') : undefined,
  }
  // Once `oneOf` is there, even if it is no list, description and default belong to the union.
  if (member(schema, 'oneOf') === undefined || property.type.kind === 'variants') return property
  return { ...property, description: undefined, default: undefined }
}

function readArray(schema: Json): SchemaType {
  const items = member(schema, 'items')
  return { kind: 'array', items: items === undefined ? undefined : readReferenceSchema(items) }
}

function readString(schema: Json): SchemaType {
  const values = (listMember(schema, 'enum') ?? []).filter(value => typeof value === 'string')
  return values.length > 0 ? { kind: 'enum', values } : { kind: 'text', text: 'string' }
}

/** Whether the schema has an `enum` with anything in it. */
export function hasEnum(schema: Json): boolean {
  return (listMember(schema, 'enum')?.length ?? 0) > 0
}

export function listMember(schema: Json, key: string): readonly Json[] | undefined {
  const list = member(schema, key)
  return isList(list) ? list : undefined
}
