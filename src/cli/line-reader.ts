import { createInterface } from 'node:readline'

/** What a person did at the prompt. */
export type Entry = { type: 'line'; text: string } | { type: 'interrupt' } | { type: 'end' }

const pasteMs = 20 // lines that follow one another faster were pasted, not typed

/**
 * Reads from a terminal, with line editing and with history on the arrow keys. Between two calls of `read` the terminal
 * is in its ordinary mode, so that Ctrl-C is the signal that it always is.
 */
export class LineReader {
  readonly #input: NodeJS.ReadStream
  readonly #output: NodeJS.WriteStream
  #history: string[] = [] // latest first

  constructor(input: NodeJS.ReadStream, output: NodeJS.WriteStream) {
    this.#input = input
    this.#output = output
  }

  /**
   * One entry. Lines pasted at once are one. Ctrl-C empties the line that is being typed; where it is empty it is an
   * `interrupt`. Ctrl-D on an empty line, or a terminal that goes away, is the `end`.
   */
  read(prompt: string): Promise<Entry> {
    const { promise, resolve } = Promise.withResolvers<Entry>()
    const reader = createInterface({
      input: this.#input,
      output: this.#output,
      terminal: true,
      history: this.#history,
      prompt,
    })
    const lines: string[] = []
    let pause: NodeJS.Timeout | undefined
    const atEnd = () => {
      this.#output.write('\n')
      done({ type: 'end' })
    }
    const done = (entry: Entry) => {
      clearTimeout(pause)
      reader.off('close', atEnd)
      reader.close()
      resolve(entry)
    }
    reader.on('history', history => {
      this.#history = [...history]
    })
    reader.on('line', line => {
      lines.push(line)
      clearTimeout(pause)
      pause = setTimeout(() => {
        if (reader.line === '') done({ type: 'line', text: lines.join('\n') })
      }, pasteMs)
    })
    reader.on('SIGINT', () => {
      const typed = lines.length > 0 || reader.line !== ''
      this.#output.write('\n')
      if (!typed) return done({ type: 'interrupt' })
      lines.length = 0
      clearTimeout(pause)
      reader.write(null, { ctrl: true, name: 'e' })
      reader.write(null, { ctrl: true, name: 'u' })
    })
    reader.on('close', atEnd)
    reader.prompt()
    return promise
  }
}
