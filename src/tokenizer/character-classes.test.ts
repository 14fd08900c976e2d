import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { characterClassesSource } from '../../scripts/build-character-classes.ts'
import * as classes from './character-classes.ts'

test('the committed table is what the script makes of the tables of Unicode 16', () => {
  const committed = readFileSync(new URL('./character-classes.generated.ts', import.meta.url), 'utf8')
  assert.equal(characterClassesSource(), committed)
})

const cases: [name: string, codePoint: number, expected: number][] = [
  ['A', 0x41, classes.upper],
  ['title case ǅ', 0x1c5, classes.upper],
  ['small letter ſ', 0x17f, classes.lower],
  ['modifier letter ʰ', 0x2b0, classes.uncased],
  ['ideograph 日', 0x65e5, classes.uncased],
  ['combining acute', 0x301, classes.mark],
  ['enclosing mark', 0x20dd, classes.mark],
  ['fraction ½', 0xbd, classes.number],
  ['Roman numeral Ⅷ', 0x2167, classes.number],
  ['tab', 0x09, classes.space],
  ['next line U+0085, white space in Unicode and not in JavaScript', 0x85, classes.space],
  ['BOM U+FEFF, white space in JavaScript and not in Unicode', 0xfeff, classes.other],
  ['zero width space', 0x200b, classes.other],
  ['line feed', 0x0a, classes.newline],
  ['carriage return', 0x0d, classes.newline],
  ['line separator', 0x2028, classes.space],
  ['letter of Unicode 16', 0x1c89, classes.upper],
  ['digit of Unicode 16', 0x10d40, classes.number],
  ['letter of Unicode 17', 0xa7ce, classes.other],
  ['letter of Unicode 17', 0x323b0, classes.other],
  ['the last code point', 0x10ffff, classes.other],
]
for (const [name, codePoint, expected] of cases) {
  test(`U+${codePoint.toString(16).toUpperCase().padStart(4, '0')}, ${name}, has its class`, () => {
    assert.equal(classes.classOfCodePoint[codePoint], expected)
  })
}
