/** UTF-8 that arrives in pieces: text comes out as soon as its characters are whole. */

const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
const none = new Uint8Array(0)

/**
 * The results of all `push` and of `finish`, one after the other, are what TextDecoder makes of all bytes at once: invalid
 * bytes become U+FFFD, a BOM is kept. No result ends within a character.
 */
export class Utf8Stream {
  #waiting = none

  /** The text that is complete with these bytes. */
  push(bytes: Uint8Array): string {
    const all = this.#waiting.length === 0 ? bytes : concat(this.#waiting, bytes)
    const whole = all.length - unfinished(all)
    this.#waiting = whole === all.length ? none : all.slice(whole)
    return whole === 0 ? '' : decoder.decode(all.subarray(0, whole))
  }

  /** What still waits: U+FFFD for the beginning of a character whose end never came. The stream is then empty again. */
  finish(): string {
    const text = this.#waiting.length === 0 ? '' : decoder.decode(this.#waiting)
    this.#waiting = none
    return text
  }
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(a.length + b.length)
  bytes.set(a)
  bytes.set(b, a.length)
  return bytes
}

/** How many bytes at the end begin a character that further bytes can still complete: 0 to 3. */
function unfinished(bytes: Uint8Array): number {
  for (let count = 1; count <= 3 && count <= bytes.length; count++) {
    const first = bytes[bytes.length - count]
    if (first >= 0x80 && first < 0xc0) continue
    if (count >= lengthOf(first)) return 0
    return count === 1 || allowsSecond(first, bytes[bytes.length - count + 1]) ? count : 0
  }
  return 0
}

/** The length of the sequence that a byte begins; 1 for ASCII and for bytes that begin none. */
function lengthOf(first: number): number {
  if (first < 0xc2 || first > 0xf4) return 1
  return first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4
}

/** Excludes overlong forms, surrogates and what lies above U+10FFFF: the second byte alone tells. */
function allowsSecond(first: number, second: number): boolean {
  if (first === 0xe0) return second >= 0xa0
  if (first === 0xed) return second < 0xa0
  if (first === 0xf0) return second >= 0x90
  if (first === 0xf4) return second < 0x90
  return true
}
