import { CheckpointError } from '../base/errors.ts'
import type { JsonObject, JsonValue } from '../base/json.ts'

/** No dimension of a model comes near it, and products of two stay exact. */
const maxSize = 2 ** 26

/** Reads fields of one object of `config.json`, refusing with field, value and what was expected. null counts as missing. */
export class ConfigReader {
  readonly #fields: JsonObject
  /** The file, for messages. */
  readonly path: string
  readonly #prefix: string

  /** `prefix`: the names of the objects around this one, each with a dot behind. */
  constructor(fields: JsonObject, path: string, prefix = '') {
    this.#fields = fields
    this.path = path
    this.#prefix = prefix
  }

  value(field: string): JsonValue | undefined {
    return this.#fields.get(field) ?? undefined
  }

  object(field: string): ConfigReader | undefined {
    const value = this.value(field)
    if (value === undefined) return undefined
    return value instanceof Map
      ? new ConfigReader(value, this.path, `${this.#prefix}${field}.`)
      : this.refuse(field, 'an object')
  }

  /** A positive integer under any of its names; under several, the same. */
  size(...names: readonly string[]): number {
    const given = names.filter(name => this.value(name) !== undefined)
    if (given.length === 0) {
      throw new CheckpointError(
        `${this.path} has no ${this.#prefix}${names.join(' or ')}: it is not the config.json of gpt-oss; download it again`,
      )
    }
    const [value, ...others] = given.map(name => this.#size(name))
    if (others.some(other => other !== value)) this.refuse(given[1], `${value}, as ${given[0]} says`)
    return value
  }

  optionalSize(field: string): number | undefined {
    return this.value(field) === undefined ? undefined : this.#size(field)
  }

  /** A positive finite number; must be there if there is no fallback. */
  positive(field: string, fallback?: number): number {
    const value = this.value(field) ?? fallback
    return typeof value === 'number' && value > 0 && Number.isFinite(value)
      ? value
      : this.refuse(field, 'a positive number')
  }

  /** Refuses any value but this one; a missing field passes. */
  fixed(field: string, expected: JsonValue, cure = 'tutti runs gpt-oss-20b and gpt-oss-120b'): void {
    const value = this.value(field)
    if (value !== undefined && value !== expected) this.refuse(field, shown(expected), cure)
  }

  refuse(field: string, expected: string, cure = 'check the file, or download it again'): never {
    const value = this.value(field)
    const given = value === undefined ? `no ${this.#prefix}${field}` : `${this.#prefix}${field} ${shown(value)}`
    throw new CheckpointError(`${this.path} has ${given}, expected ${expected}: ${cure}`)
  }

  #size(field: string): number {
    const value = this.value(field)
    if (typeof value === 'number' && Number.isInteger(value) && value > 0 && value <= maxSize) return value
    return this.refuse(field, `an integer from 1 to ${maxSize}`)
  }
}

/** A value as JSON, short. */
function shown(value: JsonValue): string {
  const json = toJson(value)
  return json.length > 100 ? `${json.slice(0, 99)}…` : json
}

function toJson(value: JsonValue): string {
  if (typeof value === 'bigint') return value.toString()
  if (Array.isArray(value)) return `[${value.map(toJson)}]`
  if (!(value instanceof Map)) return JSON.stringify(value)
  return `{${[...value].map(([key, inner]) => `${JSON.stringify(key)}:${toJson(inner)}`)}}`
}
