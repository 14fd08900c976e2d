/**
 * JSON as text that will be shown again. `JSON.parse` loses the spelling of numbers (`1.0`, 2^63), the order of keys
 * that look like indexes, and treats `__proto__` apart; here objects are Maps and numbers keep their source.
 */
import { RequestError } from '../base/errors.ts'
import type { JsonSchemaSource } from './message.ts'

export interface JsonNumber {
  /** As written: `1.0`, `1E+2`, `18446744073709551615`. */
  source: string
}
export type JsonObject = ReadonlyMap<string, Json>
export type Json = null | boolean | string | JsonNumber | readonly Json[] | JsonObject

/** Objects and arrays may nest this deep; openai-harmony's reader has the same limit. */
export const MAX_JSON_DEPTH = 128

/** JSON text, or a value that `JSON.stringify` can write, as a tree. Throws RequestError. */
export function readJson(source: JsonSchemaSource | { json: string }, param?: string): Json {
  return parse(isJsonText(source) ? source.json : stringify(source, param), param)
}

/** An object with the one key `json` is JSON text; a schema has no such keyword. */
function isJsonText(source: unknown): source is { json: string } {
  if (typeof source !== 'object' || source === null) return false
  return Object.keys(source).length === 1 && typeof (source as { json?: unknown }).json === 'string'
}

function stringify(value: unknown, param: string | undefined): string {
  try {
    const text = JSON.stringify(value)
    if (typeof text === 'string') return text
  } catch (cause) {
    const reason = cause instanceof RangeError ? 'it nests too deeply' : (cause as Error).message
    throw new RequestError(`a JSON Schema cannot be written as JSON: ${reason}; give plain data`, { param, cause })
  }
  throw new RequestError(`a JSON Schema cannot be a ${typeof value}; give an object or a boolean`, { param })
}

const whiteSpace = /[ \t\n\r]*/y
const numberOrWord = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y

/** A container that is being filled: its closing bracket, and the key that the next value belongs to. */
type Open = { list: Json[] } | { map: Map<string, Json>; key: string }

/** Without recursion, so that depth costs no stack. */
function parse(text: string, param: string | undefined): Json {
  let at = 0
  const open: Open[] = []
  for (;;) {
    let value = startValue()
    if (value === undefined) continue
    for (;;) {
      const parent = open.at(-1)
      if (parent === undefined) {
        if (peek() !== '') fail('goes on after its value')
        return value
      }
      if ('list' in parent) parent.list.push(value)
      else parent.map.set(parent.key, value)
      if (take(',')) {
        if ('map' in parent) parent.key = readKey()
        break
      }
      if (!take('list' in parent ? ']' : '}')) fail('has neither a comma nor a closing bracket')
      open.pop()
      value = 'list' in parent ? parent.list : parent.map
    }
  }

  /** A whole value; undefined where a container with content was opened. */
  function startValue(): Json | undefined {
    const next = peek()
    if (next === '"') return readString()
    if (next === '[' || next === '{') return startContainer(next)
    numberOrWord.lastIndex = at
    const lexeme = numberOrWord.exec(text)?.[0]
    if (lexeme === undefined) fail('has no value')
    at += lexeme.length
    if (lexeme === 'null') return null
    if (lexeme === 'true' || lexeme === 'false') return lexeme === 'true'
    if (!Number.isFinite(Number(lexeme))) fail('has a number out of range')
    return { source: lexeme }
  }

  function startContainer(bracket: '[' | '{'): Json | undefined {
    at++
    if (take(bracket === '[' ? ']' : '}')) return bracket === '[' ? [] : new Map()
    if (open.length === MAX_JSON_DEPTH) fail(`nests deeper than ${MAX_JSON_DEPTH} levels`)
    open.push(bracket === '[' ? { list: [] } : { map: new Map(), key: readKey() })
    return undefined
  }

  function readKey(): string {
    if (peek() !== '"') fail('has no key')
    const key = readString()
    if (!take(':')) fail('has no colon after a key')
    return key
  }

  function readString(): string {
    const from = at++
    while (at < text.length && text[at] !== '"') at += text[at] === '\\' ? 2 : 1
    at++
    try {
      return JSON.parse(text.slice(from, at)) as string
    } catch {
      at = from
      fail('has a string that does not end or holds a bad escape')
    }
  }

  function peek(): string {
    whiteSpace.lastIndex = at
    at += whiteSpace.exec(text)?.[0].length ?? 0
    return text.charAt(at)
  }

  function take(character: string): boolean {
    if (peek() !== character) return false
    at++
    return true
  }

  function fail(problem: string): never {
    throw new RequestError(`a JSON text ${problem} at character ${at}`, { param })
  }
}

/** Compact JSON text, numbers as in the source. */
export function writeJson(value: Json): string {
  return write(value, number => number.source)
}

/** Compact JSON text, numbers as Rust's serde_json prints them after reading: `1e2` is `100.0`. */
export function writeSerdeJson(value: Json): string {
  return write(value, serdeNumber)
}

function write(value: Json, number: (value: JsonNumber) => string): string {
  if (value === null || typeof value === 'boolean') return String(value)
  if (typeof value === 'string') return JSON.stringify(value)
  if (isList(value)) return `[${value.map(item => write(item, number)).join(',')}]`
  if (!isObject(value)) return number(value)
  return `{${[...value].map(([key, item]) => `${JSON.stringify(key)}:${write(item, number)}`).join(',')}}`
}

const MAX_U64 = 18446744073709551615n
const MIN_I64 = -9223372036854775808n

/** 64-bit integers print as they are; all else is a float64 in its shortest digits, always with a point or exponent. */
function serdeNumber({ source }: JsonNumber): string {
  if (/^-?\d+$/.test(source) && source !== '-0' && source.length <= 20) {
    const integer = BigInt(source)
    if (integer >= MIN_I64 && integer <= MAX_U64) return integer.toString()
  }
  return floatText(Number(source))
}

/** The layout of Rust's ryu: plain digits for 1e-5 ≤ |value| < 1e16. */
function floatText(value: number): string {
  if (value === 0) return Object.is(value, -0) ? '-0.0' : '0.0'
  const [mantissa, exponentText] = Math.abs(value).toExponential().split('e')
  const digits = mantissa.replace('.', '')
  const exponent = Number(exponentText)
  const sign = value < 0 ? '-' : ''
  if (exponent < -5 || exponent > 15) return `${sign}${mantissa}e${exponent}`
  if (exponent < 0) return `${sign}0.${'0'.repeat(-exponent - 1)}${digits}`
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, '0')
  return `${sign}${whole}.${digits.slice(exponent + 1) || '0'}`
}

export function isList(value: Json | undefined): value is readonly Json[] {
  return Array.isArray(value)
}

export function isObject(value: Json | undefined): value is JsonObject {
  return value instanceof Map
}

export function isNumber(value: Json | undefined): value is JsonNumber {
  return typeof value === 'object' && value !== null && 'source' in value
}

/** A member of an object; undefined where the value is no object or lacks it. */
export function member(value: Json | undefined, key: string): Json | undefined {
  return isObject(value) ? value.get(key) : undefined
}

/** A member that is text. */
export function textMember(value: Json | undefined, key: string): string | undefined {
  const found = member(value, key)
  return typeof found === 'string' ? found : undefined
}
