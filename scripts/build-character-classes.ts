/**
 * Writes src/tokenizer/character-classes.generated.ts: the classes of all code points that the split pattern of o200k
 * tells apart, by the tables of Unicode 16 in the npm package regenerate-unicode-properties.
 *
 *   node --conditions=tutti-source scripts/build-character-classes.ts
 */
import { writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'
import { numCodePoints } from '../src/tokenizer/character-classes.ts'

const require = createRequire(import.meta.url)
const output = new URL('../src/tokenizer/character-classes.generated.ts', import.meta.url)

// The letter of a class, and the properties that make it up; what is in none is 'O'.
const properties: [letter: string, property: string][] = [
  ['U', 'General_Category/Uppercase_Letter'],
  ['U', 'General_Category/Titlecase_Letter'],
  ['L', 'General_Category/Lowercase_Letter'],
  ['X', 'General_Category/Modifier_Letter'],
  ['X', 'General_Category/Other_Letter'],
  ['M', 'General_Category/Mark'],
  ['N', 'General_Category/Number'],
  ['S', 'Binary_Property/White_Space'],
]

/** The source text of the generated file. Throws if the package holds another Unicode. */
export function characterClassesSource(): string {
  const version = require('regenerate-unicode-properties/unicode-version.js')
  if (version !== '16.0.0')
    throw new Error(`regenerate-unicode-properties has Unicode ${version}, expected 16.0.0: install it by "npm ci".`)
  const letters: string[] = new Array(numCodePoints).fill('O')
  for (const [letter, property] of properties) {
    const set = require(`regenerate-unicode-properties/${property}.js`).characters.toArray()
    for (const codePoint of set as number[]) letters[codePoint] = letter
  }
  letters[0x0a] = letters[0x0d] = 'R'
  const lines = runs(letters).match(/.{1,110}/g)!
  return `// Made by scripts/build-character-classes.ts from the tables of Unicode ${version}.
export const runs =
${lines.map(line => `  '${line}'`).join(' +\n')}
`
}

/** 'AABCCC' as 'A2BC3', lengths in base 36 (lower case). */
function runs(letters: readonly string[]): string {
  let text = ''
  for (let start = 0, end = 0; start < letters.length; start = end) {
    while (end < letters.length && letters[end] === letters[start]) end++
    text += letters[start] + (end - start > 1 ? (end - start).toString(36) : '')
  }
  return text
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) writeFileSync(output, characterClassesSource())
