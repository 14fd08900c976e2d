/** o200k_harmony: text to token ids and back. Implemented by `bpe.ts`; the rest of tutti depends on this alone. */
export interface Tokenizer {
  /**
   * Rows of the model's vocabulary; its ids run from 0 to vocabSize − 1. One id more decodes and has a name, because
   * openai-harmony knows a `<|reserved_201088|>`.
   */
  readonly vocabSize: number
  /**
   * Text to ids. Text is ordinary by default: what spells a control token becomes ordinary tokens.
   * Only special tokens named in `allowedSpecial` are recognised: a list of any names, or 'all' for those that
   * `specialName` gives. Throws RequestError if the list has a name that is none. Lone surrogates count as U+FFFD.
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
  /**
   * Id of a special token by any of its names (`<|start|>`, `<|reserved_200013|>`), undefined if there is none.
   * `<|endofprompt|>` is a second name of 200018.
   */
  specialId(name: string): number | undefined
  /** Name of a special token, which is also the text that it decodes to; undefined for other ids. */
  specialName(id: number): string | undefined
}
