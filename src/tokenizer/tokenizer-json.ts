import { CheckpointError } from '../base/errors.ts'
import { createTokenizer } from './bpe.ts'
import { firstSpecial, vocabSize } from './special-tokens.ts'
import type { Tokenizer } from './tokenizer.ts'
import { numBytes, packVocabulary, unpackVocabulary, type Vocabulary } from './vocabulary.ts'

/** The parts of a Hugging Face `tokenizer.json` that are read. */
export interface TokenizerJson {
  model: { type?: string; vocab: Record<string, number>; merges: readonly (string | readonly [string, string])[] }
  added_tokens?: readonly { id: number; content: string }[]
  pre_tokenizer?: unknown
}

/** What the split pattern of o200k has and those of its relatives (GPT-2, cl100k, Llama 3) lack. */
const patternParts = ['\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}', '\\p{N}{1,3}', '[\\r\\n/]*']

/**
 * The tokenizer of a model's own `tokenizer.json`: byte-level BPE with the vocabulary of o200k. Its added tokens may give
 * special tokens further names. About a second. Throws CheckpointError if the file is none, or holds another tokenizer.
 */
export function tokenizerFromJson(json: string | TokenizerJson): Tokenizer {
  const file = typeof json === 'string' ? parse(json) : json
  const { model } = file
  if (typeof model?.vocab !== 'object' || model.vocab === null || !Array.isArray(model.merges))
    throw new CheckpointError(
      'tokenizer.json has no "model" with "vocab" and "merges": it is not a byte pair encoding.',
    )
  const pattern = JSON.stringify(file.pre_tokenizer ?? null)
  const missing = patternParts.find(part => !pattern.includes(JSON.stringify(part).slice(1, -1)))
  if (missing !== undefined)
    throw new CheckpointError(
      `tokenizer.json splits text by another pattern than o200k (its "pre_tokenizer" lacks ${missing}): ` +
        'only the tokenizer of gpt-oss is supported.',
    )
  const ids = new Map(Object.entries(model.vocab))
  const names = readNames(ids, file.added_tokens ?? [])
  const vocabulary = unpackVocabulary(packVocabulary(readTokens(ids)))
  checkMerges(vocabulary, ids, model.merges)
  return createTokenizer(vocabulary, names)
}

function parse(text: string): TokenizerJson {
  try {
    return JSON.parse(text) ?? {}
  } catch (cause) {
    throw new CheckpointError(`tokenizer.json is not JSON: ${(cause as Error).message}.`, { cause })
  }
}

/** The bytes of the ordinary tokens in the order of their ids. */
function readTokens(ids: ReadonlyMap<string, number>): Uint8Array[] {
  const tokens: Uint8Array[] = []
  let count = 0
  for (const [text, id] of ids) {
    if (id >= firstSpecial) continue
    if (!Number.isInteger(id) || id < 0 || tokens[id])
      throw new CheckpointError(
        `tokenizer.json gives token ${JSON.stringify(text)} the id ${id}, which is no id or taken.`,
      )
    tokens[id] = bytesOf(text)
    count++
  }
  if (count !== firstSpecial)
    throw new CheckpointError(
      `tokenizer.json has ${count} ordinary tokens, expected ${firstSpecial}: only the tokenizer of gpt-oss is supported.`,
    )
  return tokens
}

/**
 * Byte-level BPE writes a byte as a character: those that Latin-1 prints stand for themselves, the rest in their order as
 * U+0100 and on (GPT-2's `bytes_to_unicode`).
 */
const byteOfCharacter = new Map<string, number>()
for (let byte = 0, next = 0x100; byte < 256; byte++) {
  const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad)
  byteOfCharacter.set(String.fromCharCode(printable ? byte : next++), byte)
}

function bytesOf(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length)
  for (let at = 0; at < text.length; at++) {
    const byte = byteOfCharacter.get(text[at])
    if (byte === undefined)
      throw new CheckpointError(
        `tokenizer.json has the token ${JSON.stringify(text)} with ${JSON.stringify(text[at])}, which stands for no byte: ` +
          'it is not a byte-level vocabulary.',
      )
    bytes[at] = byte
  }
  return bytes
}

/** The merges must be what the ids say: in their order, and for every token the one pair that can come up. */
function checkMerges(
  { pairs, size }: Vocabulary,
  ids: ReadonlyMap<string, number>,
  merges: TokenizerJson['model']['merges'],
): void {
  let last = 0
  let count = 0
  for (const merge of merges) {
    const [left, right] = typeof merge === 'string' ? merge.split(' ') : merge
    const merged = ids.get(left + right)
    if (merged === undefined || merged < last)
      throw new CheckpointError(
        `tokenizer.json merges ${JSON.stringify(left)} and ${JSON.stringify(right)} into token ${merged} after token ` +
          `${last}, expected the order of ids: only the tokenizer of gpt-oss is supported.`,
      )
    last = merged
    if (pairs.get(ids.get(left) ?? 0, ids.get(right) ?? 0) === merged) count++
  }
  if (count !== size - numBytes)
    throw new CheckpointError(
      `tokenizer.json has the merges of ${count} tokens, expected ${size - numBytes}: only the tokenizer of gpt-oss is supported.`,
    )
}

/** Further names of special tokens. */
function readNames(
  ids: ReadonlyMap<string, number>,
  added: NonNullable<TokenizerJson['added_tokens']>,
): Map<string, number> {
  const names = new Map(added.map(({ id, content }) => [content, id]))
  for (const [text, id] of ids) if (id >= firstSpecial) names.set(text, id)
  for (const [name, id] of names) {
    if (typeof name !== 'string' || name === '' || !Number.isInteger(id) || id < firstSpecial || id >= vocabSize)
      throw new CheckpointError(
        `tokenizer.json adds the token ${JSON.stringify(name)} as ${id}, expected ids from ${firstSpecial} to ` +
          `${vocabSize - 1}: the model has no row for it.`,
      )
  }
  return names
}
