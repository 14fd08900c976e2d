/** What the split pattern of o200k tells apart. The tables are Unicode 16 whatever the JavaScript engine knows. */
import { runs } from './character-classes.generated.ts'

export const numCodePoints = 0x110000

/** None of the others: punctuation, symbols, control characters, unassigned code points. */
export const other = 0
/** \p{Lu}, \p{Lt} */
export const upper = 1
/** \p{Ll} */
export const lower = 2
/** \p{Lm}, \p{Lo} */
export const uncased = 3
/** \p{M} */
export const mark = 4
/** \p{N} */
export const number = 5
/** White_Space but for the two newlines: with U+0085, without U+FEFF, which is JavaScript's \s reversed. */
export const space = 6
/** \r, \n */
export const newline = 7
/** Not a class of code points: the second, third or fourth byte of one in UTF-8. */
export const continuation = 8

const classOfLetter: Record<string, number> = {
  O: other,
  U: upper,
  L: lower,
  X: uncased,
  M: mark,
  N: number,
  S: space,
  R: newline,
}

/** The class of every code point. [0x110000] */
export const classOfCodePoint = expand()

function expand(): Uint8Array {
  const classes = new Uint8Array(numCodePoints)
  let codePoint = 0
  for (let at = 0; at < runs.length; ) {
    const start = at++
    while (runs[at] > 'Z' || runs[at] <= '9') at++ // a length has digits and small letters
    const length = at > start + 1 ? Number.parseInt(runs.slice(start + 1, at), 36) : 1
    classes.fill(classOfLetter[runs[start]], codePoint, (codePoint += length))
  }
  return classes
}
