import { Utf8Stream } from '../../src/base/utf8.ts'
import { loadTokenizer } from '../../src/tokenizer/load.ts'
import { StreamingDecoder } from '../../src/tokenizer/streaming-decoder.ts'
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts'
import type { Row } from './row.ts'

const encoder = new TextEncoder()
const maxFailures = 3
const utf8 = 'src/base/utf8.ts'

export const row: Row = {
  row: 12,
  title: 'UTF-8 streaming: every scalar value, cut at every place and as its tokens',
  async run({ long }) {
    const tokenizer = await loadTokenizer()
    const failures: string[] = []
    let n = 0
    for (const codePoint of scalarValues()) {
      const character = String.fromCodePoint(codePoint)
      const bytes = encoder.encode(`a${character}b`)
      // Bit i of `cuts` cuts before byte i + 1: each place alone, in the long tier every combination.
      for (let cuts = 1; cuts < 1 << (bytes.length - 1); cuts = long ? cuts + 1 : cuts * 2, n++) {
        const chunks = streamBytes(bytes, cuts)
        if (broken(chunks, `a${character}b`)) failures.push(describe(character, `cuts ${cuts.toString(2)}`, chunks))
      }
      n++
      const ids = tokenizer.encode(character)
      const chunks = streamTokens(ids, tokenizer)
      if (broken(chunks, character)) failures.push(describe(character, `tokens ${ids}`, chunks))
      if (failures.length >= maxFailures) break
    }
    return { n, failures }
  },
  planted: [
    {
      file: utf8,
      search: 'const whole = all.length - unfinished(all)',
      replace: 'const whole = all.length',
      what: 'the beginning of a character does not wait',
    },
    { file: utf8, search: 'count <= 3 &&', replace: 'count <= 2 &&', what: 'three of four bytes do not wait' },
    {
      file: utf8,
      search: 'return second < 0x90',
      replace: 'return second < 0x80',
      what: 'plane 16 is taken for invalid',
    },
    { file: utf8, search: 'bytes.set(b, a.length)', replace: 'bytes.set(b)', what: 'what waited is overwritten' },
    { file: utf8, search: 'ignoreBOM: true', replace: 'ignoreBOM: false', what: 'a byte order mark is dropped' },
  ],
}

/** All but the surrogates, in an order that visits every region early: the step and their number have no common divisor. */
function* scalarValues(): Generator<number> {
  const [count, step] = [0x110000, 69_069]
  for (let index = 0, codePoint = 0xfeff; index < count; index++, codePoint = (codePoint + step) % count)
    if (codePoint < 0xd800 || codePoint > 0xdfff) yield codePoint
}

function streamBytes(bytes: Uint8Array, cuts: number): string[] {
  const stream = new Utf8Stream()
  const chunks: string[] = []
  for (let start = 0, end = 1; start < bytes.length; start = end++) {
    while (end < bytes.length && !((cuts >> (end - 1)) & 1)) end++
    chunks.push(stream.push(bytes.subarray(start, end)))
  }
  chunks.push(stream.finish())
  return chunks
}

function streamTokens(ids: readonly number[], tokenizer: Tokenizer): string[] {
  const decoder = new StreamingDecoder(tokenizer)
  return [...ids.map(id => decoder.push(id)), decoder.finish()]
}

/** Whether the text is not exactly that, or a chunk ends within a character. */
function broken(chunks: readonly string[], text: string): boolean {
  return chunks.join('') !== text || chunks.some(chunk => !chunk.isWellFormed())
}

function describe(character: string, how: string, chunks: readonly string[]): string {
  const name = character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')
  return `U+${name}, ${how}: ${JSON.stringify(chunks)}`
}
