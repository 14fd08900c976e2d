/** UTF-8 as Rust's standard library looks at it, for the parser that does as the reference. */

const decoder = new TextDecoder('utf-8', { ignoreBOM: true })

export const REPLACEMENT = '\uFFFD'

/** Bytes as text, each maximal broken part as one U+FFFD; a BOM is kept. */
export function lossyText(bytes: Uint8Array): string {
  return decoder.decode(bytes)
}

/**
 * Where bytes stop being UTF-8. `valid` bytes are whole characters; after them come `broken` bytes that can never
 * become one (1 to 3), or, if `broken` is 0 and bytes are left, the beginning of a character.
 */
export function scanUtf8(bytes: Uint8Array): { valid: number; broken: number } {
  let at = 0
  while (at < bytes.length) {
    const lead = bytes[at]
    const size = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0
    if (size === 0) return { valid: at, broken: 1 }
    for (let k = 1; k < size; k++) {
      if (at + k === bytes.length) return { valid: at, broken: 0 }
      if (!continues(lead, k, bytes[at + k])) return { valid: at, broken: k }
    }
    at += size
  }
  return { valid: at, broken: 0 }
}

/** Byte k of a character: no overlong forms, no surrogates, nothing beyond U+10FFFF. */
function continues(lead: number, k: number, byte: number): boolean {
  const low = k > 1 ? 0x80 : lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80
  const high = k > 1 ? 0xbf : lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf
  return byte >= low && byte <= high
}

export function joinBytes(a: Uint8Array, b: Uint8Array): Uint8Array {
  const joined = new Uint8Array(a.length + b.length)
  joined.set(a)
  joined.set(b, a.length)
  return joined
}
