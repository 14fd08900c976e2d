import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { classify, endOfPiece } from './split.ts'
import { mixedText } from './testing.ts'

function split(text: string): string[] {
  const bytes = new TextEncoder().encode(text)
  const classes = classify(bytes)
  const pieces: string[] = []
  for (let start = 0, end = 0; start < bytes.length; start = end) {
    end = endOfPiece(bytes, classes, start)
    assert.ok(end > start, `no progress at byte ${start} of ${JSON.stringify(text)}`)
    pieces.push(Buffer.from(bytes.subarray(start, end)).toString())
  }
  return pieces
}

const cases: [text: string, pieces: string[]][] = [
  ['camelCase HTTPServer', ['camel', 'Case', ' HTTPServer']],
  ["they're THEY'LL x'ſ", ["they're", " THEY'LL", " x'ſ"]],
  ["don't'd've", ["don't", "'d've"]],
  ['日本GO go', ['日本', 'GO', ' go']],
  ['12345 ½²³⁴', ['123', '45', ' ', '½²³', '⁴']],
  ['a  b   \n c  ', ['a', ' ', ' b', '   \n', ' c', '  ']],
  ['!!//\r\n/! x', ['!!//\r\n/', '!', ' x']],
  ['x \u3000!', ['x', ' ', '\u3000', '!']],
  ['\u0085\ufeffa', ['\u0085', '\ufeffa']],
  ['!\u0301\u0301! \u0301', ['!\u0301\u0301', '!', ' \u0301']],
  ['\u0301ABC', ['\u0301', 'ABC']],
  ['ABCdefGHI日jk', ['ABCdef', 'GHI日jk']],
]
for (const [text, pieces] of cases) {
  test(`${JSON.stringify(text)} is split into ${pieces.length}`, () => assert.deepEqual(split(text), pieces))
}

test('the pieces are those of the regular expression, over characters that all versions of Unicode know', () => {
  const contraction = "(?:'[sS\u017f]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?"
  const capitals = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]'
  const smalls = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]'
  const blank = '\\p{White_Space}'
  const pattern = new RegExp(
    [
      `[^\\r\\n\\p{L}\\p{N}]?${capitals}*${smalls}+${contraction}`,
      `[^\\r\\n\\p{L}\\p{N}]?${capitals}+${smalls}*${contraction}`,
      '\\p{N}{1,3}',
      ` ?[^${blank}\\p{L}\\p{N}]+[\\r\\n/]*`,
      `${blank}*[\\r\\n]+`,
      `${blank}+(?!\\P{White_Space})`,
      `${blank}+`,
    ].join('|'),
    'gu',
  )
  fc.assert(
    fc.property(mixedText, text => {
      assert.deepEqual(split(text.toWellFormed()), text.toWellFormed().match(pattern) ?? [])
    }),
    { numRuns: 20_000 },
  )
})
