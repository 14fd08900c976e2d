import { numBytes, type Vocabulary } from './vocabulary.ts'

/** Writes the parts that byte pair encoding starts from to `ids` and returns how many they are. */
export type FirstParts = (bytes: Uint8Array, start: number, end: number, ids: Int32Array) => number

const numBasic = 0x10000

/**
 * Starts from whole characters instead of bytes wherever the result is the same, which saves most merges outside ASCII.
 *
 * A character may start as its token if both its boundaries are clean: no token that holds a torn character reaches over
 * them. Then the first merge over such a boundary makes whole characters only, so until then the character is merged
 * from its own bytes alone, and all these merges come before that one: a token has a higher id than its parts.
 * Bytes must be valid UTF-8.
 */
export function createFirstParts({ size, bytes: pool, offsets, byteIds }: Vocabulary): FirstParts {
  const characterIds = new Int32Array(numBasic) // id + 1 of the token that is this character; 0 if there is none
  const tornAfter = new Uint8Array(1 << 16) // by a hash of a character and the first byte of the next one
  const tornAfterByte = new Uint8Array(1 << 16) // by a last and a first byte, where the token begins inside a character

  for (let id = numBytes; id < size; id++) {
    const start = offsets[id]
    const end = offsets[id + 1]
    if (pool[start] < 0x80 && pool[end - 1] < 0x80) continue
    if (isTorn(pool, start, end)) markBoundaries(start, end)
    else if (start + lengthOf(pool[start]) === end && end - start < 4) characterIds[decode(pool, start)] = id + 1
  }

  function markBoundaries(start: number, end: number): void {
    let character = start
    for (let at = start + 1; at < end; at++) {
      if (isContinuation(pool[at])) continue
      if (isContinuation(pool[character])) tornAfterByte[(pool[at - 1] << 8) | pool[at]] = 1
      else tornAfter[hashOf(decode(pool, character), pool[at])] = 1
      character = at
    }
  }

  return (bytes, start, end, ids) => {
    let count = 0
    let cleanBefore = true
    for (let at = start, next = at; at < end; at = next) {
      const first = bytes[at]
      next = at + lengthOf(first)
      if (first < 0x80 && bytes[next] < 0x80) {
        ids[count++] = byteIds[first]
        continue // whether the boundary is clean concerns longer characters only
      }
      const codePoint = decode(bytes, at)
      const cleanAfter =
        next === end ||
        (tornAfter[hashOf(codePoint, bytes[next])] | tornAfterByte[(bytes[next - 1] << 8) | bytes[next]]) === 0
      const id = cleanBefore && cleanAfter && first >= 0x80 && codePoint < numBasic ? characterIds[codePoint] : 0
      if (id > 0) ids[count++] = id - 1
      else while (at < next) ids[count++] = byteIds[bytes[at++]]
      cleanBefore = cleanAfter
    }
    return count
  }
}

/** Whether the bytes begin or end inside a character. */
function isTorn(bytes: Uint8Array, start: number, end: number): boolean {
  if (isContinuation(bytes[start])) return true
  let last = end - 1
  while (isContinuation(bytes[last])) last--
  return last + lengthOf(bytes[last]) !== end
}

function isContinuation(byte: number): boolean {
  return (byte & 0xc0) === 0x80
}

/** How many bytes the character has that begins with this byte. */
function lengthOf(first: number): number {
  return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4
}

function decode(bytes: Uint8Array, at: number): number {
  const first = bytes[at]
  if (first < 0x80) return first
  if (first < 0xe0) return ((first & 0x1f) << 6) | (bytes[at + 1] & 0x3f)
  const low = ((bytes[at + 1] & 0x3f) << 6) | (bytes[at + 2] & 0x3f)
  return first < 0xf0 ? ((first & 0x0f) << 12) | low : ((first & 0x07) << 18) | (low << 6) | (bytes[at + 3] & 0x3f)
}

function hashOf(codePoint: number, firstByte: number): number {
  return (Math.imul(codePoint, 0x9e3779b1) ^ Math.imul(firstByte, 0x85ebca6b)) >>> 16
}
