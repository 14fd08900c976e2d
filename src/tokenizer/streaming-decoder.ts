import { RequestError } from '../base/errors.ts'
import { Utf8Stream } from '../base/utf8.ts'
import type { Tokenizer } from './tokenizer.ts'

/** Ids to text one by one. The results of all `push` and of `finish` together are `tokenizer.decode` of all ids. */
export class StreamingDecoder {
  readonly #tokenizer: Tokenizer
  readonly #stream = new Utf8Stream()

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer
  }

  /** The text that is complete with this token, perhaps none; never a part of a character. Throws RequestError on an unknown id. */
  push(id: number): string {
    const bytes = this.#tokenizer.tokenBytes(id)
    if (!bytes) throw unknownToken(id, this.#tokenizer.vocabSize)
    return this.#stream.push(bytes)
  }

  /** U+FFFD if the last tokens ended within a character, else nothing. The decoder is then as new. */
  finish(): string {
    return this.#stream.finish()
  }
}

export function unknownToken(id: number, vocabSize: number): RequestError {
  return new RequestError(`Token id ${id} does not exist: ids are whole numbers from 0 to ${vocabSize - 1}.`)
}
