import { createInterface } from 'node:readline'
import { StringDecoder } from 'node:string_decoder'
import { styleText } from 'node:util'

/** Quiet text, where the stream is a terminal that shows it. */
export function dim(text: string, stream: NodeJS.WriteStream): string {
  return styleText('dim', text, { stream })
}

/**
 * Text as it may go to this stream. A terminal obeys control characters, so a model could move the cursor, change what
 * is on the screen or the title: there they become visible. A pipe gets every character.
 */
export function safeFor(stream: NodeJS.WriteStream, text: string): string {
  if (!stream.isTTY) return text
  return text.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, character => {
    const code = character.charCodeAt(0)
    return code < 0x20 ? String.fromCharCode(0x2400 + code) : '\u2421'
  })
}

/** All of a stream as text. */
export async function readAll(stream: NodeJS.ReadStream): Promise<string> {
  const decoder = new StringDecoder('utf8')
  let text = ''
  for await (const chunk of stream) text += typeof chunk === 'string' ? chunk : decoder.write(chunk as Buffer)
  return text + decoder.end()
}

/** The lines of a stream as they come, without their ends. */
export function readLines(stream: NodeJS.ReadStream): AsyncIterable<string> {
  return createInterface({ input: stream, crlfDelay: Infinity })
}

/** One line at the bottom of a terminal that says what is going on; nothing at all where there is no terminal. */
export class StatusLine {
  readonly #stream: NodeJS.WriteStream
  #shown = ''

  constructor(stream: NodeJS.WriteStream) {
    this.#stream = stream
  }

  show(text: string): void {
    if (!this.#stream.isTTY || text === this.#shown) return
    const fitting = text.slice(0, Math.max((this.#stream.columns || 80) - 1, 1))
    this.#stream.write(`\r\x1b[2K${dim(fitting, this.#stream)}`)
    this.#shown = text
  }

  clear(): void {
    if (this.#shown !== '') this.#stream.write('\r\x1b[2K')
    this.#shown = ''
  }
}
