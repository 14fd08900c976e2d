/** Follows `$ref` and merges `allOf`, so that one flat schema is left to read. */
import { isList, isObject, type Json, type JsonObject, member } from './json.ts'

/** A schema without `$ref` and `allOf`. */
export interface FlatSchema {
  schema: JsonObject
  /** The definitions that went into it. */
  definitions: JsonObject[]
  /** A definition that is being read already: the schema stands inside itself. */
  recursion?: JsonObject
}

/** The schema that a JSON pointer of this document names (`#`, `#/$defs/Node`); undefined for all other references. */
export function resolvePointer(root: Json, reference: Json | undefined): Json | undefined {
  if (typeof reference !== 'string' || !/^#(\/|$)/.test(reference)) return undefined
  let found: Json | undefined = root
  for (const part of reference.split('/').slice(1)) {
    const key = unescapeToken(part)
    found = isList(found) ? found[/^\d+$/.test(key) ? Number(key) : -1] : member(found, key)
  }
  return found
}

function unescapeToken(token: string): string {
  let plain = token
  try {
    plain = decodeURIComponent(token)
  } catch {
    // A lone % stands for itself.
  }
  return plain.replaceAll('~1', '/').replaceAll('~0', '~')
}

/** What a schema says together with all that it refers to. `isOpen` tells which definitions are being read already. */
export function flatten(schema: JsonObject, root: Json, isOpen: (definition: JsonObject) => boolean): FlatSchema {
  const parts = new Set<JsonObject>()
  const flat: FlatSchema = { schema, definitions: [] }
  const waiting = [schema]
  for (let part = waiting.pop(); part !== undefined; part = waiting.pop()) {
    if (parts.has(part)) continue
    parts.add(part)
    const definition = resolvePointer(root, part.get('$ref'))
    const allOf = part.get('allOf')
    if (isList(allOf)) waiting.push(...allOf.filter(isObject).reverse())
    if (!isObject(definition)) continue
    if (isOpen(definition)) flat.recursion = definition
    else if (!parts.has(definition)) {
      flat.definitions.push(definition)
      waiting.push(definition)
    }
  }
  if (parts.size > 1 || schema.has('allOf')) flat.schema = merge([...parts])
  return flat
}

/** The earlier part's words win; properties and requirements add up. */
export function merge(parts: readonly JsonObject[]): JsonObject {
  const out = new Map<string, Json>()
  for (const part of parts) {
    for (const [key, value] of part) {
      if (key === '$ref' || key === 'allOf') continue
      const before = out.get(key)
      out.set(key, before === undefined ? value : (combined(key, before, value) ?? before))
    }
  }
  return out
}

function combined(key: string, before: Json, value: Json): Json | undefined {
  if (key === 'required' && isList(before) && isList(value)) return [...before, ...value]
  if (key !== 'properties' && key !== 'patternProperties') return undefined
  return isObject(before) && isObject(value) ? bothProperties(before, value) : undefined
}

function bothProperties(before: JsonObject, value: JsonObject): JsonObject {
  const out = new Map(before)
  for (const [name, schema] of value) {
    const known = out.get(name)
    out.set(name, known === undefined || known === schema ? schema : new Map([['allOf', [known, schema]]]))
  }
  return out
}
