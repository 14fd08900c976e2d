import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Utf8Stream } from './utf8.ts'

/** All that the bytes give, chunk by chunk; the last chunk is that of `finish`. */
function stream(...chunks: (number[] | Uint8Array)[]): string[] {
  const utf8 = new Utf8Stream()
  return [...chunks.map(chunk => utf8.push(Uint8Array.from(chunk))), utf8.finish()]
}

const cases: [name: string, chunks: number[][], expected: string[]][] = [
  ['nothing', [], ['']],
  ['empty chunks', [[], [0x61], []], ['', 'a', '', '']],
  ['two bytes apart', [[0xc3], [0xa9]], ['', 'é', '']],
  ['three bytes, one by one', [[0xe2], [0x82], [0xac]], ['', '', '€', '']],
  ['four bytes, one by one', [[0xf0], [0x9f], [0x99], [0x82]], ['', '', '', '🙂', '']],
  [
    'text around a cut',
    [
      [0x61, 0xe2, 0x82],
      [0xac, 0x62],
    ],
    ['a', '€b', ''],
  ],
  ['a beginning without an end', [[0x61, 0xf0, 0x9f]], ['a', '\ufffd']],
  ['a beginning cut off by ASCII', [[0xf0, 0x9f], [0x61]], ['', '\ufffda', '']],
  ['a beginning cut off by another', [[0xe2, 0x82], [0xc3], [0xa9]], ['', '\ufffd', 'é', '']],
  ['a lone continuation byte', [[0x80], [0x61]], ['\ufffd', 'a', '']],
  ['bytes that never occur', [[0xff], [0xc0], [0xf5]], ['\ufffd', '\ufffd', '\ufffd', '']],
  ['an overlong form does not wait', [[0xe0, 0x80], [0xaf]], ['\ufffd\ufffd', '\ufffd', '']],
  ['half a surrogate pair does not wait', [[0xed], [0xa0], [0x80]], ['', '\ufffd\ufffd', '\ufffd', '']],
  ['beyond U+10FFFF', [[0xf4], [0x90, 0x80, 0x80]], ['', '\ufffd\ufffd\ufffd\ufffd', '']],
  [
    'a byte order mark is text',
    [
      [0xef, 0xbb],
      [0xbf, 0x61],
    ],
    ['', '\ufeffa', ''],
  ],
]

for (const [name, chunks, expected] of cases) {
  test(`UTF-8 in pieces: ${name}`, () => assert.deepEqual(stream(...chunks), expected))
}

/** Bytes that are often the beginning or the middle of characters. */
const bytes = fc.array(
  fc.oneof(
    fc.nat(255),
    fc.constantFrom(0x41, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc2, 0xe0, 0xe2, 0xed, 0xef, 0xf0, 0xf3, 0xf4),
  ),
  { maxLength: 12 },
)

test('the chunks together are what TextDecoder makes of all bytes, however they are cut', () => {
  fc.assert(
    fc.property(fc.array(bytes, { maxLength: 6 }), chunks => {
      const whole = new TextDecoder('utf-8', { ignoreBOM: true }).decode(Uint8Array.from(chunks.flat()))
      assert.equal(stream(...chunks).join(''), whole)
    }),
    { numRuns: 3000 },
  )
})

test('nothing waits that is decided: each chunk is what a streaming TextDecoder gives', () => {
  fc.assert(
    fc.property(bytes, all => {
      const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
      const chunks = all.map(byte => [byte])
      const expected = chunks.map(chunk => decoder.decode(Uint8Array.from(chunk), { stream: true }))
      assert.deepEqual(stream(...chunks), [...expected, decoder.decode()])
    }),
    { numRuns: 3000 },
  )
})

test('a finished stream can be used again', () => {
  const utf8 = new Utf8Stream()
  utf8.push(Uint8Array.of(0xf0, 0x9f))
  assert.equal(utf8.finish(), '\ufffd')
  assert.equal(utf8.push(Uint8Array.of(0x99, 0x61)), '\ufffda')
  assert.equal(utf8.finish(), '')
})
