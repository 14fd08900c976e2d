/**
 * Reads a JSON Schema for the prompt. Where openai-harmony says what a schema means, this says the same; where it says
 * `any` or leaves something out (`$ref`, `allOf`, `anyOf`, `const`, other enums, tuples, keys without names), this says more.
 */
import { RequestError } from '../base/errors.ts'
import {
  isList,
  isNumber,
  isObject,
  type Json,
  type JsonObject,
  MAX_JSON_DEPTH,
  member,
  textMember,
  writeSerdeJson,
} from './json.ts'
import { flatten } from './schema-definitions.ts'
import { hasEnum, listMember } from './schema-reference.ts'
import type { Property, SchemaType, Signature, Variant } from './schema-type.ts'
import { escapeLineBreaks } from './text-lines.ts'

/** A schema may use its definitions, and theirs, so often in all; with two uses each, 14 of them reach it. */
export const MAX_EXPANSIONS = 10_000

/** Throws RequestError where a schema nests too deeply or grows without measure. */
export function readSchema(schema: Json, param?: string): SchemaType {
  return new SchemaReader(schema, param).root()
}

/** A definition that is being read. */
interface Definition {
  schema: JsonObject
  /** Whether it was met again inside itself. */
  isRecursive: boolean
}

const any: SchemaType = { kind: 'text', text: 'any' }
const nullType: SchemaType = { kind: 'text', text: 'null' }
const simpleTypes = new Map([
  ['string', 'string'],
  ['number', 'number'],
  ['integer', 'number'],
  ['boolean', 'boolean'],
  ['null', 'null'],
])
const typeWords = new Set([...simpleTypes.keys(), 'any', 'object', 'array', 'Array'])

class SchemaReader {
  readonly #root: Json
  readonly #param: string | undefined
  readonly #open: Definition[] = []
  readonly #names = new Map<JsonObject, string>()
  #depth = 0
  #expansions = 0

  constructor(root: Json, param: string | undefined) {
    this.#root = root
    this.#param = param
  }

  root(): SchemaType {
    const root = this.#root
    if (!isObject(root)) return any
    return this.#inside([root], () => this.#typeOf(root))
  }

  /** Follows references, then reads. */
  #read(schema: JsonObject): { type: SchemaType; flat: JsonObject } {
    this.#measure()
    this.#depth++
    const { schema: flat, definitions, recursion } = flatten(schema, this.#root, definition => this.#isOpen(definition))
    const type = recursion ? this.#recursion(recursion) : this.#inside(definitions, () => this.#structureOf(flat))
    this.#depth--
    return { type, flat }
  }

  #typeOf(schema: Json): SchemaType {
    return isObject(schema) ? this.#read(schema).type : any
  }

  #measure(): void {
    if (this.#depth > MAX_JSON_DEPTH) {
      throw new RequestError(`a JSON Schema nests deeper than ${MAX_JSON_DEPTH} levels once its $refs are followed`, {
        param: this.#param,
      })
    }
    if (this.#open.length > 1 && ++this.#expansions > MAX_EXPANSIONS) {
      throw new RequestError(
        `a JSON Schema has more than ${MAX_EXPANSIONS} parts once its $refs are followed; use its definitions less often`,
        { param: this.#param },
      )
    }
  }

  #isOpen(schema: JsonObject): boolean {
    return this.#open.some(definition => definition.schema === schema)
  }

  /** Reads while these definitions are open; each that was met again inside gets its name. */
  #inside(schemas: readonly JsonObject[], read: () => SchemaType): SchemaType {
    const definitions = schemas.map(schema => ({ schema, isRecursive: false }))
    this.#open.push(...definitions)
    const type = read()
    this.#open.length -= definitions.length
    return definitions
      .filter(({ isRecursive }) => isRecursive)
      .reduceRight(
        (inner, { schema }): SchemaType => ({ kind: 'named', name: this.#nameOf(schema), type: inner }),
        type,
      )
  }

  /** A definition inside itself. */
  #recursion(schema: JsonObject): SchemaType {
    this.#open.find(open => open.schema === schema)!.isRecursive = true
    return { kind: 'text', text: this.#nameOf(schema) }
  }

  /** The last word of the definition's place, made a word of its own; `Root` for the whole. */
  #nameOf(schema: JsonObject): string {
    const known = this.#names.get(schema)
    if (known !== undefined) return known
    const taken = new Set([...this.#names.values(), ...typeWords])
    const word = (schema === this.#root ? 'Root' : this.#keyOf(schema)).replace(/[^\p{L}\p{M}\p{N}_]/gu, '_') || 'Type'
    let name = word
    for (let n = 2; taken.has(name); n++) name = `${word}_${n}`
    this.#names.set(schema, name)
    return name
  }

  #keyOf(schema: JsonObject): string {
    for (const keyword of ['$defs', 'definitions']) {
      const definitions = member(this.#root, keyword)
      if (!isObject(definitions)) continue
      for (const [key, value] of definitions) if (value === schema) return key
    }
    return 'Type'
  }

  #structureOf(schema: JsonObject): SchemaType {
    const constant = schema.get('const')
    if (constant !== undefined) return literal(constant)
    return this.#choice(schema, 'oneOf') ?? enumType(schema) ?? this.#choice(schema, 'anyOf') ?? this.#typed(schema)
  }

  #typed(schema: JsonObject): SchemaType {
    const type = schema.get('type')
    if (isList(type)) return this.#typeList(schema, type)
    return this.#single(schema, type === undefined || type === null ? impliedType(schema) : type)
  }

  #single(schema: JsonObject, type: Json | undefined): SchemaType {
    if (type === 'object') return this.#object(schema)
    if (type === 'array') return this.#array(schema)
    const text = typeof type === 'string' ? simpleTypes.get(type) : undefined
    return text === undefined ? any : { kind: 'text', text }
  }

  /** Plain words share one text; objects and arrays with more to say are written out. */
  #typeList(schema: JsonObject, types: readonly Json[]): SchemaType {
    const known = types.filter(type => typeof type === 'string' && typeWords.has(type))
    if (known.length === 0) return any
    const isBareObject = !isObject(schema.get('properties')) && impliedType(schema) !== 'object'
    const parts = known.map((type): SchemaType => {
      return type === 'object' && isBareObject ? { kind: 'text', text: 'object' } : this.#single(schema, type)
    })
    const words = new Set(parts.map(part => (part.kind === 'text' ? part.text : undefined)))
    return words.has(undefined) ? union(parts) : { kind: 'text', text: [...words].join(' | ') }
  }

  #object(schema: JsonObject): SchemaType {
    const properties = schema.get('properties')
    const required = new Set(listMember(schema, 'required'))
    return {
      kind: 'object',
      description: textMember(schema, 'description'),
      properties: isObject(properties)
        ? [...properties].map(([key, value]) => this.#property(key, value, required.has(key)))
        : [],
      signatures: this.#signatures(schema),
    }
  }

  #property(key: string, schema: Json, required: boolean): Property {
    const { flat, ...variant } = this.#variant(schema)
    const examples = listMember(flat, 'examples')
    return {
      ...variant,
      key,
      required,
      title: textMember(flat, 'title'),
      examples: examples && examples.length > 0 ? examples.filter(example => typeof example === 'string') : undefined,
    }
  }

  /** `null` joins the type here, so none is left for the printer to add. */
  #variant(schema: Json): Variant & { flat: Json } {
    const { type, flat } = isObject(schema) ? this.#read(schema) : { type: any, flat: schema }
    return {
      flat,
      type: withNull(type, flat),
      nullable: false,
      description: textMember(flat, 'description'),
      default: member(flat, 'default'),
      isEnum: hasEnum(flat),
    }
  }

  #signatures(schema: JsonObject): Signature[] {
    const patterns = schema.get('patternProperties')
    const others = schema.get('additionalProperties')
    const out: Signature[] = []
    if (isObject(patterns)) {
      for (const [pattern, value] of patterns) out.push({ pattern, type: this.#variant(value).type })
    }
    if (isObject(others)) out.push({ type: this.#variant(others).type })
    return out
  }

  #array(schema: JsonObject): SchemaType {
    const items = schema.get('items')
    const prefix = listMember(schema, 'prefixItems')
    if (prefix !== undefined && prefix.length > 0) return this.#tuple(prefix, items)
    if (isList(items) && items.length > 0) return this.#tuple(items, schema.get('additionalItems'))
    return { kind: 'array', items: items === undefined ? undefined : this.#variant(items).type }
  }

  #tuple(items: readonly Json[], rest: Json | undefined): SchemaType {
    return {
      kind: 'tuple',
      items: items.map(item => this.#variant(item).type),
      rest: rest === false ? undefined : this.#variant(rest ?? true).type,
    }
  }

  /** A choice among schemas; undefined where it only adds conditions to what the schema itself says. */
  #choice(schema: JsonObject, keyword: 'oneOf' | 'anyOf'): SchemaType | undefined {
    const choices = listMember(schema, keyword) ?? []
    const common = structureOf(schema, keyword)
    const isCondition = common.size > 0 && !choices.some(choice => isObject(choice) && structureOf(choice).size > 0)
    if (choices.length === 0 || isCondition) return undefined
    const variants = choices.map(choice => {
      const { flat, ...variant } = this.#variant(isObject(choice) && common.size > 0 ? allOf([choice, common]) : choice)
      return variant
    })
    const isPlain = variants.every(isPlainVariant)
    return keyword === 'anyOf' && isPlain ? union(variants.map(({ type }) => type)) : { kind: 'variants', variants }
  }
}

/** Keywords that say what a value looks like; all others annotate or restrict it. */
const structural = new Set(
  '$ref allOf anyOf oneOf const enum type properties patternProperties additionalProperties items prefixItems'.split(
    ' ',
  ),
)

/** What a schema says of its values' looks, apart from its choices: this holds for each of them. */
function structureOf(schema: JsonObject, choice?: 'oneOf' | 'anyOf'): JsonObject {
  const without = choice === undefined ? [] : ['oneOf', 'anyOf', 'enum', 'const']
  const found = [...schema].filter(([key]) => structural.has(key) && !without.includes(key))
  const required = schema.get('required')
  return new Map(found.length > 0 && required !== undefined ? [...found, ['required', required]] : found)
}

function allOf(schemas: readonly JsonObject[]): JsonObject {
  return new Map([['allOf', schemas]])
}

/** The enum's values that the type allows: an empty rest says nothing. */
function enumType(schema: JsonObject): SchemaType | undefined {
  const type = schema.get('type')
  const values = (listMember(schema, 'enum') ?? []).filter(value => isOfType(value, type))
  const words = values.filter(value => typeof value === 'string')
  if (values.length === 0) return undefined
  return words.length === values.length ? { kind: 'enum', values: words } : union(values.map(literal))
}

function isOfType(value: Json, type: Json | undefined): boolean {
  if (isList(type)) return type.some(one => isOfType(value, one))
  switch (type) {
    case 'string':
    case 'boolean':
      return typeof value === type
    case 'null':
      return value === null
    case 'array':
      return isList(value)
    case 'object':
      return isObject(value)
    case 'number':
    case 'integer':
      return isNumber(value)
    default:
      return true
  }
}

function literal(value: Json): SchemaType {
  if (typeof value === 'string') return { kind: 'enum', values: [value] }
  return { kind: 'text', text: escapeLineBreaks(writeSerdeJson(value)) }
}

/** What a schema without a type is about. */
function impliedType(schema: JsonObject): 'object' | 'array' | undefined {
  const isAbout = (keys: string[]) => keys.some(key => isObject(schema.get(key)) || isList(schema.get(key)))
  if (isAbout(['properties', 'patternProperties', 'additionalProperties'])) return 'object'
  return isAbout(['items', 'prefixItems']) ? 'array' : undefined
}

/** Each part once. */
function union(parts: readonly SchemaType[]): SchemaType {
  const flat = parts.flatMap(part => (part.kind === 'union' ? part.parts : [part]))
  const unique = new Map(flat.map(part => [JSON.stringify(part), part]))
  return unique.size === 1 ? flat[0] : { kind: 'union', parts: [...unique.values()] }
}

function withNull(type: SchemaType, schema: Json): SchemaType {
  if (member(schema, 'nullable') !== true || allowsNull(type)) return type
  if (type.kind !== 'variants') return union([type, nullType])
  return { kind: 'variants', variants: [...type.variants, { type: nullType, nullable: false, isEnum: false }] }
}

function allowsNull(type: SchemaType): boolean {
  if (type.kind === 'text') return type.text.split(' | ').includes('null')
  if (type.kind === 'union') return type.parts.some(allowsNull)
  return type.kind === 'variants' && type.variants.some(variant => allowsNull(variant.type))
}

/** A choice whose comment would be empty and whose type fits a line. */
function isPlainVariant({ type, description, default: value }: Variant): boolean {
  return description === undefined && value === undefined && isOneLine(type)
}

function isOneLine(type: SchemaType): boolean {
  if (type.kind === 'array') return type.items === undefined || isOneLine(type.items)
  if (type.kind === 'union') return type.parts.every(isOneLine)
  return type.kind === 'text' || type.kind === 'enum'
}
