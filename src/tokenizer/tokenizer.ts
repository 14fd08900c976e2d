/** o200k_harmony: text to token ids and back. Implemented by `bpe.ts`; the rest of tutti depends on this alone. */
export interface Tokenizer {
  /** Rows of the model's vocabulary; ids run from 0 to vocabSize − 1. */
  readonly vocabSize: number
  /**
   * Text to ids. Text is ordinary by default: what spells a control token becomes ordinary tokens.
   * Only special tokens named in `allowedSpecial` ('all' or a list) are recognised. Lone surrogates count as U+FFFD.
   */
  encode(text: string, options?: { allowedSpecial?: 'all' | readonly string[] }): number[]
  /** Ids to text, invalid UTF-8 as U+FFFD (as TextDecoder does, a BOM is kept). Throws RequestError on unknown ids. */
  decode(ids: Iterable<number>): string
  /** The bytes of ids, one after the other. */
  decodeBytes(ids: Iterable<number>): Uint8Array
  /** The bytes of one token; undefined for an id that does not exist. Not to be written to. */
  tokenBytes(id: number): Uint8Array | undefined
  /** True for control and reserved tokens. */
  isSpecial(id: number): boolean
  /** Id of a special token by any of its names (`<|start|>`, `<|reserved_200013|>`), undefined if there is none. */
  specialId(name: string): number | undefined
  /** Name of a special token. */
  specialName(id: number): string | undefined
}
