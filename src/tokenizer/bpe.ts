import { RequestError } from '../base/errors.ts'
import { createFirstParts } from './first-parts.ts'
import { createMerge } from './merge.ts'
import { aliases, firstSpecial, lastSpecial, specialIds, specialName, vocabSize } from './special-tokens.ts'
import { classify, endOfPiece } from './split.ts'
import { unknownToken } from './streaming-decoder.ts'
import type { Tokenizer } from './tokenizer.ts'
import type { Vocabulary } from './vocabulary.ts'
import { createFindToken } from './whole-tokens.ts'

const encoder = new TextEncoder()
const decoder = new TextDecoder('utf-8', { ignoreBOM: true })

/** The o200k_harmony tokenizer over a vocabulary of ordinary tokens; `moreNames` are further names of special tokens. */
export function createTokenizer(vocabulary: Vocabulary, moreNames: ReadonlyMap<string, number> = new Map()): Tokenizer {
  const encodeOrdinary = createEncode(vocabulary)
  const primary = specialIds()
  const names = new Map([...primary, ...aliases, ...moreNames])
  const specialBytes = Array.from({ length: lastSpecial - firstSpecial + 1 }, (_, index) =>
    encoder.encode(specialName(firstSpecial + index)),
  )
  const isSpecial = (id: number) => id >= firstSpecial && id <= lastSpecial && Number.isInteger(id)

  function tokenBytes(id: number): Uint8Array | undefined {
    if (isSpecial(id)) return specialBytes[id - firstSpecial]
    if (!(id >= 0 && id < vocabulary.size && Number.isInteger(id))) return undefined
    return vocabulary.bytes.subarray(vocabulary.offsets[id], vocabulary.offsets[id + 1])
  }

  function decodeBytes(ids: Iterable<number>): Uint8Array {
    const chunks: Uint8Array[] = []
    let length = 0
    for (const id of ids) {
      const chunk = tokenBytes(id)
      if (!chunk) throw unknownToken(id, vocabSize)
      chunks.push(chunk)
      length += chunk.length
    }
    const bytes = new Uint8Array(length)
    let at = 0
    for (const chunk of chunks) {
      bytes.set(chunk, at)
      at += chunk.length
    }
    return bytes
  }

  function allowedIds(allowed: 'all' | readonly string[]): ReadonlyMap<string, number> {
    if (allowed === 'all') return primary
    return new Map(
      allowed.map(name => {
        const id = names.get(name)
        if (id === undefined)
          throw new RequestError(`allowedSpecial names ${JSON.stringify(name)}, which is not a special token.`)
        return [name, id]
      }),
    )
  }

  return {
    vocabSize,
    encode(text, { allowedSpecial = [] } = {}) {
      const ids: number[] = []
      if (allowedSpecial.length === 0) {
        encodeOrdinary(text, ids)
        return ids
      }
      let start = 0
      for (const { at, name, id } of findNames(text, allowedIds(allowedSpecial))) {
        encodeOrdinary(text.slice(start, at), ids)
        ids.push(id)
        start = at + name.length
      }
      encodeOrdinary(text.slice(start), ids)
      return ids
    },
    decode: ids => decoder.decode(decodeBytes(ids)),
    decodeBytes,
    tokenBytes,
    isSpecial,
    specialId: name => names.get(name),
    specialName: id => (isSpecial(id) ? specialName(id) : undefined),
  }
}

/** Ordinary text to ids, which are appended to `out`. */
function createEncode(vocabulary: Vocabulary): (text: string, out: number[]) => void {
  const findToken = createFindToken(vocabulary)
  const firstParts = createFirstParts(vocabulary)
  const merge = createMerge(vocabulary.pairs, vocabulary.size)
  const kept = new Int32Array(1024)

  function encodePiece(bytes: Uint8Array, start: number, end: number, out: number[]): void {
    const whole = findToken(bytes, start, end)
    if (whole >= 0) {
      out.push(whole)
      return
    }
    const length = end - start
    const ids = length <= kept.length ? kept : new Int32Array(length)
    merge(ids, firstParts(bytes, start, end, ids), out)
  }

  return (text, out) => {
    const bytes = encoder.encode(text)
    const classes = classify(bytes)
    for (let start = 0, end = 0; start < bytes.length; start = end) {
      end = endOfPiece(bytes, classes, start)
      encodePiece(bytes, start, end, out)
    }
  }
}

/** Where a text spells one of `names`, from left to right; a longer name goes before a shorter one. */
function* findNames(
  text: string,
  names: ReadonlyMap<string, number>,
): Generator<{ at: number; name: string; id: number }> {
  const lengths = [...new Set(Array.from(names.keys(), name => name.length))].sort((a, b) => b - a)
  const firsts = new Set(Array.from(names.keys(), name => name.charCodeAt(0)))
  for (let at = 0; at < text.length; at++) {
    if (!firsts.has(text.charCodeAt(at))) continue
    for (const length of lengths) {
      const name = text.slice(at, at + length)
      const id = names.get(name)
      if (id === undefined) continue
      yield { at, name, id }
      at += length - 1
      break
    }
  }
}
