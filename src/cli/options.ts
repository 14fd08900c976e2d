import { parseArgs } from 'node:util'
import { RequestError } from '../base/errors.ts'

/** One option of a command: how it is written, explained and read. */
export interface Option<T> {
  help: string
  /** What stands for the value in the help; an option without one is a flag. */
  hint?: string
  /** Text to value; throws RequestError with what it expected. */
  read: (text: string) => T
}

export type Options = Record<string, Option<unknown>>
export type Values<O extends Options> = { [K in keyof O]?: ReturnType<O[K]['read']> }

export const flag = (help: string): Option<true> => ({ help, read: () => true })

export const text = (hint: string, help: string): Option<string> => ({ help, hint, read: value => value })

export function oneOf<const T extends string>(choices: readonly T[], help: string): Option<T> {
  const read = (value: string): T => {
    const choice = choices.find(known => known === value)
    if (choice !== undefined) return choice
    throw new RequestError(`must be ${choices.slice(0, -1).join(', ')} or ${choices.at(-1)}, not ${quote(value)}`)
  }
  return { help, hint: choices.join('|'), read }
}

export function wholeNumber(from: number, help: string): Option<number> {
  const read = (value: string): number => {
    const number = Number(value)
    if (/^\d+$/.test(value) && Number.isSafeInteger(number) && number >= from) return number
    throw new RequestError(`must be a whole number from ${from} on, not ${quote(value)}`)
  }
  return { help, hint: 'N', read }
}

/** Some whole numbers, `1,2,4`. */
export function numbers(help: string): Option<readonly number[]> {
  const read = (value: string): readonly number[] => {
    if (/^[1-9]\d{0,4}(,[1-9]\d{0,4})*$/.test(value)) return value.split(',').map(Number)
    throw new RequestError(`must be whole numbers from 1 on with commas between them, not ${quote(value)}`)
  }
  return { help, hint: 'N,N', read }
}

export function decimal(help: string): Option<number> {
  const read = (value: string): number => {
    if (/^(\d+\.?\d*|\.\d+)$/.test(value)) return Number(value)
    throw new RequestError(`must be a number from 0 on, not ${quote(value)}`)
  }
  return { help, hint: 'X', read }
}

/**
 * Reads the arguments of a command. Throws RequestError for options that do not exist, that lack a value or that have a
 * wrong one.
 */
export function readArguments<O extends Options>(
  args: readonly string[],
  options: O,
): { values: Values<O>; positionals: string[] } {
  const config = Object.fromEntries(Object.keys(options).map(name => [name, { type: typeOf(options[name]) }]))
  const { tokens, positionals } = parseArgs({
    args: [...args],
    options: config,
    allowPositionals: true,
    strict: false,
    tokens: true,
  })
  const values: Record<string, unknown> = {}
  for (const token of tokens) {
    if (token.kind !== 'option') continue
    const { name, rawName, value, inlineValue } = token
    const option = Object.hasOwn(options, name) ? options[name] : undefined
    if (!option) throw new RequestError(`there is no option ${rawName}${didYouMean(name, options)}`)
    if (option.hint === undefined && value !== undefined) throw new RequestError(`${rawName} takes no value`)
    if (option.hint !== undefined && (value === undefined || (!inlineValue && value.startsWith('--')))) {
      throw new RequestError(`${rawName} needs a value: ${rawName}=${option.hint}`)
    }
    values[name] = readValue(rawName, value ?? '', option)
  }
  return { values: values as Values<O>, positionals }
}

const typeOf = ({ hint }: Option<unknown>) => (hint === undefined ? ('boolean' as const) : ('string' as const))

function readValue(rawName: string, value: string, option: Option<unknown>): unknown {
  try {
    return option.read(value)
  } catch (error) {
    if (error instanceof RequestError) throw new RequestError(`${rawName} ${error.message}`)
    throw error
  }
}

/** The name among `known` that is most like `name`, as a question; nothing if none is. */
export function didYouMean(name: string, known: object, prefix = '--'): string {
  const [best] = Object.keys(known)
    .map(candidate => ({ candidate, distance: editDistance(name, candidate) }))
    .filter(({ candidate, distance }) => distance <= Math.ceil(candidate.length / 3))
    .sort((a, b) => a.distance - b.distance)
  return best ? `; did you mean ${prefix}${best.candidate}?` : ''
}

/** Levenshtein's. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1))
    }
    row = next
  }
  return row[b.length]
}

const quote = (value: string) => JSON.stringify(value)
