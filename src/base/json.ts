/**
 * A parsed JSON value. Objects are Maps, so that `__proto__` is a key like any other; integers beyond 2^53 are bigints,
 * so that none is rounded.
 */
export type JsonValue = null | boolean | number | bigint | string | JsonValue[] | JsonObject
export type JsonObject = ReadonlyMap<string, JsonValue>

/** Objects and arrays may nest this deep: the limit of the Rust reader that most safetensors users have. */
export const maxJsonDepth = 127

/** Parses a whole JSON text. Throws a SyntaxError that names the place. */
export function parseJson(text: string): JsonValue {
  const reader = new JsonReader(text)
  const value = reader.value()
  reader.end()
  return value
}

/**
 * Reads JSON value by value, exactly by RFC 8259, for texts that nobody vouches for. Where JSON.parse is lenient this
 * is not: a repeated key, a lone surrogate, an infinite number and nesting beyond `maxJsonDepth` are SyntaxErrors.
 */
export class JsonReader {
  readonly #text: string
  #at = 0
  #depth = 0

  constructor(text: string) {
    this.#text = text
  }

  /** The first character of the next value; '' at the end of the text. */
  peek(): string {
    this.#skipSpace()
    return this.#text.charAt(this.#at)
  }

  /** Calls `member` for every key, in front of its value, which it must read or skip. */
  object(member: (key: string) => void): void {
    const keys = new Set<string>()
    this.#open('{', 'an object')
    if (this.peek() !== '}') {
      do {
        const key = this.string()
        if (keys.has(key)) this.fail(`the key ${quoted(key)} is repeated`)
        keys.add(key)
        this.#expect(':', "':' after a key")
        member(key)
      } while (this.#another('}', "',' or '}'"))
    }
    this.#close()
  }

  /** Calls `element` in front of every element, which it must read or skip. */
  array(element: (index: number) => void): void {
    this.#open('[', 'an array')
    let index = 0
    if (this.peek() !== ']') {
      do element(index++)
      while (this.#another(']', "',' or ']'"))
    }
    this.#close()
  }

  string(): string {
    this.#expect('"', 'a string')
    const text = this.#text
    let out = ''
    for (let from = this.#at; ; ) {
      const code = text.charCodeAt(this.#at)
      if (code === 0x22) {
        const part = text.slice(from, this.#at++)
        return out === '' ? part : out + part
      }
      if (code === 0x5c) {
        out += text.slice(from, this.#at) + this.#escape()
        from = this.#at
      } else if (code >= 0x20) {
        this.#at++
      } else {
        this.fail(Number.isNaN(code) ? 'a string does not end' : 'a string holds a control character')
      }
    }
  }

  /** An integer from 0 to 2^64 − 1, written without sign, fraction and exponent; a bigint beyond 2^53 − 1. */
  unsigned(): number | bigint {
    this.#skipSpace()
    const from = this.#at
    const lexeme = this.#lexeme()
    const value = /^\d+$/.test(lexeme) ? integer(lexeme) : -1
    if (value >= 0 && value <= 0xffff_ffff_ffff_ffffn) return value
    this.#at = from
    return this.fail('expected an unsigned integer below 2^64')
  }

  /** Any value, kept. */
  value(): JsonValue {
    switch (this.peek()) {
      case '{': {
        const out = new Map<string, JsonValue>()
        this.object(key => out.set(key, this.value()))
        return out
      }
      case '[': {
        const out: JsonValue[] = []
        this.array(() => out.push(this.value()))
        return out
      }
      case '"':
        return this.string()
      case 't':
        return this.#word('true', true)
      case 'f':
        return this.#word('false', false)
      case 'n':
        return this.null()
      default:
        return this.#number()
    }
  }

  /** Any value, checked and dropped. */
  skip(): void {
    const next = this.peek()
    if (next === '{') this.object(() => this.skip())
    else if (next === '[') this.array(() => this.skip())
    else this.value()
  }

  null(): null {
    return this.#word('null', null)
  }

  /** Nothing but white space may follow. */
  end(): void {
    if (this.peek() !== '') this.fail('the text goes on after its value')
  }

  fail(problem: string): never {
    throw new SyntaxError(`${problem} (at character ${this.#at})`)
  }

  #skipSpace(): void {
    for (;;) {
      const code = this.#text.charCodeAt(this.#at)
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return
      this.#at++
    }
  }

  #expect(character: string, what: string): void {
    if (this.peek() !== character) this.fail(`expected ${what}`)
    this.#at++
  }

  #open(character: string, what: string): void {
    this.#expect(character, what)
    if (++this.#depth > maxJsonDepth) this.fail(`more than ${maxJsonDepth} objects and arrays inside each other`)
  }

  #close(): void {
    this.#at++
    this.#depth--
  }

  /** Whether another member follows; leaves the closing bracket to `#close`. */
  #another(closing: string, what: string): boolean {
    const next = this.peek()
    if (next === closing) return false
    this.#expect(',', what)
    return true
  }

  #word<T>(word: string, value: T): T {
    this.#skipSpace()
    if (!this.#text.startsWith(word, this.#at)) this.fail('expected a value')
    this.#at += word.length
    return value
  }

  #number(): number | bigint {
    const from = this.#at
    const lexeme = this.#lexeme()
    if (lexeme === '') this.fail('expected a value')
    const value = /^-?\d+$/.test(lexeme) ? integer(lexeme) : Number(lexeme)
    if (typeof value === 'bigint' || Number.isFinite(value)) return value
    this.#at = from
    return this.fail('a number is out of range')
  }

  /** Moves past the number at hand, if there is one. */
  #lexeme(): string {
    const number = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y
    number.lastIndex = this.#at
    const lexeme = number.exec(this.#text)?.[0] ?? ''
    this.#at += lexeme.length
    return lexeme
  }

  /** The characters that the escape at hand stands for; moves past it. */
  #escape(): string {
    const letter = this.#text.charAt(this.#at + 1)
    if (letter === 'u') return this.#unicodeEscape()
    const character = escapes.get(letter)
    if (character === undefined) this.fail('a string holds an unknown escape')
    this.#at += 2
    return character
  }

  #unicodeEscape(): string {
    const high = this.#hex()
    if (high < 0xd800 || high > 0xdfff) return String.fromCharCode(high)
    const low = high < 0xdc00 && this.#text.startsWith('\\u', this.#at) ? this.#hex() : 0
    if (low < 0xdc00 || low > 0xdfff) this.fail('a string holds half of a surrogate pair')
    return String.fromCharCode(high, low)
  }

  #hex(): number {
    const digits = this.#text.slice(this.#at + 2, this.#at + 6)
    if (!/^[\dA-Fa-f]{4}$/.test(digits)) this.fail('\\u needs four hexadecimal digits')
    this.#at += 6
    return Number.parseInt(digits, 16)
  }
}

const escapes = new Map([
  ['"', '"'],
  ['\\', '\\'],
  ['/', '/'],
  ['b', '\b'],
  ['f', '\f'],
  ['n', '\n'],
  ['r', '\r'],
  ['t', '\t'],
])

/** Exact: a bigint where a number would be rounded. */
function integer(digits: string): number | bigint {
  const number = Number(digits)
  if (Number.isSafeInteger(number)) return number
  // A float64 ends at 309 digits, and so does what is read here: longer ones would cost quadratic time.
  return digits.length > 310 ? Number.POSITIVE_INFINITY : BigInt(digits)
}

/** A name for a message: short, on one line, with everything odd visible. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 77)}…` : text)
}
