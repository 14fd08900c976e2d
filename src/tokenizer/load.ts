import { loadVocabulary } from '#vocabulary'
import { createTokenizer } from './bpe.ts'
import type { Tokenizer } from './tokenizer.ts'
import { unpackVocabulary } from './vocabulary.ts'

let loading: Promise<Tokenizer> | undefined

/** The tokenizer of gpt-oss, from the vocabulary that comes with tutti; loaded once. Throws CheckpointError. */
export function loadTokenizer(): Promise<Tokenizer> {
  loading ??= loadVocabulary().then(data => createTokenizer(unpackVocabulary(data)))
  loading.catch(() => (loading = undefined))
  return loading
}
