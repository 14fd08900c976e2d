/**
 * The split pattern of o200k by hand: no token reaches over the end of a piece. As a regular expression, with
 * (?i) and \s as in Rust:
 *
 *   [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?
 *  |[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?
 *  |\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
 *
 * Every byte is looked at a bounded number of times.
 */
import {
  classOfCodePoint,
  continuation,
  lower,
  mark,
  newline,
  number,
  other,
  space,
  uncased,
  upper,
} from './character-classes.ts'

// Sets of classes as bit masks; continuation bytes belong to every set that a run goes over.
const capitals = bits(upper, uncased, mark, continuation)
const smalls = bits(lower, uncased, mark, continuation)
const capitalsAndSmalls = bits(uncased, mark)
const blank = bits(space, newline, continuation)
const symbols = bits(other, mark, continuation)
const end = 9 // stands after the last byte and belongs to no set

/** The class of each code point of valid UTF-8 at its first byte, `continuation` at the others, `end` after the last. */
export function classify(bytes: Uint8Array): Uint8Array {
  const length = bytes.length
  const classes = new Uint8Array(length + 1)
  classes[length] = end
  for (let at = 0; at < length; at++) {
    const byte = bytes[at]
    if (byte < 0x80) {
      classes[at] = classOfCodePoint[byte]
    } else if (byte < 0xe0) {
      classes[at] = classOfCodePoint[((byte & 0x1f) << 6) | (bytes[at + 1] & 0x3f)]
      classes[++at] = continuation
    } else if (byte < 0xf0) {
      classes[at] = classOfCodePoint[((byte & 0x0f) << 12) | ((bytes[at + 1] & 0x3f) << 6) | (bytes[at + 2] & 0x3f)]
      classes[++at] = continuation
      classes[++at] = continuation
    } else {
      const high = ((byte & 0x07) << 18) | ((bytes[at + 1] & 0x3f) << 12)
      classes[at] = classOfCodePoint[high | ((bytes[at + 2] & 0x3f) << 6) | (bytes[at + 3] & 0x3f)]
      classes[++at] = continuation
      classes[++at] = continuation
      classes[++at] = continuation
    }
  }
  return classes
}

/** The end of the piece that begins at `start`, which is before the end of the text. */
export function endOfPiece(bytes: Uint8Array, classes: Uint8Array, start: number): number {
  const first = classes[start]
  if (first === number) return endOfNumber(classes, start)
  const afterWord = first === newline ? 0 : endOfWord(bytes, classes, start)
  if (afterWord) return afterWord
  if (first === other) return endOfSymbols(bytes, classes, start)
  if (bytes[start] === 0x20 && classes[start + 1] === other) return endOfSymbols(bytes, classes, start + 1)
  return endOfBlank(bytes, classes, start)
}

/** The first two branches: one leading symbol or blank, capitals, small letters, a contraction. 0 if there is no word. */
function endOfWord(bytes: Uint8Array, classes: Uint8Array, start: number): number {
  const first = classes[start]
  let at = start
  // A mark may be the leading symbol too, but is also a letter of the word: the piece ends at the same place.
  if (first === other || first === space) at = endOfCodePoint(classes, start)
  let afterUncased = 0
  const afterLead = at
  while ((capitals >> classes[at]) & 1) {
    if ((capitalsAndSmalls >> classes[at]) & 1) {
      at = afterUncased = endOfCodePoint(classes, at)
    } else at++
  }
  if (classes[at] === lower) {
    while ((smalls >> classes[at]) & 1) at++
  } else if (afterUncased) {
    at = afterUncased // the small letters are at least one letter: the last that can be one
  } else if (at === afterLead) return 0
  return bytes[at] === 0x27 ? endOfContraction(bytes, at) : at
}

/** Behind 's, 't, 're, 've, 'm, 'll or 'd in any case (also 'ſ, whose capital is S); `at` itself if it is none. */
function endOfContraction(bytes: Uint8Array, at: number): number {
  const first = bytes[at + 1] | 0x20
  if (first === 0x73 || first === 0x74 || first === 0x6d || first === 0x64) return at + 2
  const second = bytes[at + 2] | 0x20
  if ((first === 0x72 || first === 0x76) && second === 0x65) return at + 3
  if (first === 0x6c && second === 0x6c) return at + 3
  return bytes[at + 1] === 0xc5 && bytes[at + 2] === 0xbf ? at + 3 : at
}

function endOfNumber(classes: Uint8Array, start: number): number {
  let at = start
  for (let digits = 0; digits < 3 && classes[at] === number; digits++) at = endOfCodePoint(classes, at)
  return at
}

/** Symbols and marks from `start`, then newlines and slashes. */
function endOfSymbols(bytes: Uint8Array, classes: Uint8Array, start: number): number {
  let at = start
  while ((symbols >> classes[at]) & 1) at++
  while (classes[at] === newline || bytes[at] === 0x2f) at++
  return at
}

/** The last three branches: up to the last newline; else up to the last blank, which goes to what follows. */
function endOfBlank(bytes: Uint8Array, classes: Uint8Array, start: number): number {
  let at = start
  let afterNewline = 0
  while ((blank >> classes[at]) & 1) {
    if (classes[at++] === newline) afterNewline = at
  }
  if (afterNewline) return afterNewline
  if (at === bytes.length) return at
  let last = at - 1
  while (classes[last] === continuation) last--
  return last > start ? last : at
}

function endOfCodePoint(classes: Uint8Array, start: number): number {
  let at = start + 1
  while (classes[at] === continuation) at++
  return at
}

function bits(...classes: number[]): number {
  return classes.reduce((mask, one) => mask | (1 << one), 0)
}
