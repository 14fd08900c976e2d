import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { firstSpecial } from './special-tokens.ts'
import type { Tokenizer } from './tokenizer.ts'
import type { TokenizerJson } from './tokenizer-json.ts'

/** test/golden/tokenizer/cases.json; its README says what the parts are. */
export interface Goldens {
  encode: { group: string; text: string; ids: number[] }[]
  encodeWithSpecials: { text: string; allowed: 'all' | string[]; ids: number[] }[]
  decode: { group: string; ids: number[]; hex?: string; text?: string; error?: string }[]
  specialTokens: [id: number, name: string, otherNames: string[]][]
}

export function readGoldens(): Goldens {
  return JSON.parse(readFileSync(new URL('../../test/golden/tokenizer/cases.json', import.meta.url), 'utf8'))
}

/** Characters of every class that the split pattern tells apart, each at least once in ASCII if it is there. */
export const characters = [
  ...['a', 's', 't', 'd', 'm', 'l', 'e', 'r', 'v', 'é', 'ſ', '𝐛'], // small letters; those of contractions
  ...['A', 'S', 'L', 'E', 'É', 'ǅ', '𝐁'], // capitals, title case
  ...['日', 'ʰ', 'ª', 'ん', '𠀀'], // letters without case
  ...['\u0301', '\u094d', '\u20dd', '\u{e0100}'], // marks
  ...['1', '٣', 'Ⅷ', '½', '𝟏'], // numbers
  ...[' ', '\t', '\u00a0', '\u0085', '\u3000', '\u2028'], // blanks
  ...['\n', '\r'],
  ...["'", '/', '!', '_', '<', '|', '€', '🙂', '\ufeff', '\u200d', '\0', '\u{10ffff}'],
]

/** Text in which the classes meet in all orders. */
export const mixedText = fc
  .array(fc.oneof({ weight: 4, arbitrary: fc.constantFrom(...characters) }, { weight: 1, arbitrary: fc.string() }), {
    maxLength: 24,
  })
  .map(parts => parts.join(''))

/** What a model's tokenizer.json says, with as many of its parts as the reader looks at. */
export function sampleTokenizerJson(tokenizer: Tokenizer): TokenizerJson {
  const characterOfByte = Array.from({ length: 256 }, () => '')
  let next = 0x100
  for (let byte = 0; byte < 256; byte++) {
    const shown = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
    characterOfByte[byte] = String.fromCharCode(shown ? byte : next++)
  }
  const texts = Array.from({ length: firstSpecial }, (_, id) =>
    Array.from(tokenizer.tokenBytes(id)!, byte => characterOfByte[byte]).join(''),
  )
  const known = new Set(texts)
  const merges: [string, string][] = []
  for (const text of texts) {
    for (let cut = 1; cut < text.length; cut++) {
      if (known.has(text.slice(0, cut)) && known.has(text.slice(cut)))
        merges.push([text.slice(0, cut), text.slice(cut)])
    }
  }
  const pattern =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|" +
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|" +
    '\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+'
  return {
    added_tokens: [
      { id: 199998, content: '<|startoftext|>' },
      { id: 200006, content: '<|start|>' },
      { id: 200017, content: '<|padding|>' },
      { id: 200018, content: '<|endofprompt|>' },
    ],
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false },
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    model: { type: 'BPE', vocab: Object.fromEntries(texts.map((text, id) => [text, id])), merges },
  }
}
