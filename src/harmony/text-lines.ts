/** Lines, and how text from outside is kept inside one. */

/** All that some reader may take for the end of a line: LF, CR LF, VT, FF, CR, NEL, LS, PS. */
const lineBreak = /\r\n|[\n\v\f\r\u0085\u2028\u2029]/
const lineBreaks = /(?:\r\n|[\n\v\f\r\u0085\u2028\u2029])+/g

/** Lines as Rust's `str::lines` gives them: ended by `\n` or `\r\n`, and no empty one after the last end. */
export function linesOf(text: string): string[] {
  return withoutEmptyEnd(text.split(/\r?\n/))
}

/** The same by every kind of line break. */
export function everyLineOf(text: string): string[] {
  return withoutEmptyEnd(text.split(lineBreak))
}

function withoutEmptyEnd(lines: string[]): string[] {
  return lines.at(-1) === '' ? lines.slice(0, -1) : lines
}

/** Each line as a comment. */
export function commented(lines: readonly string[]): string[] {
  return lines.map(line => `// ${line}`)
}

export function hasLineBreak(text: string): boolean {
  return lineBreak.test(text)
}

/** Line breaks become spaces. */
export function oneLine(text: string): string {
  return text.replace(lineBreaks, ' ')
}

/** JSON text with the line breaks that JSON allows inside strings escaped too. */
export function escapeLineBreaks(json: string): string {
  return json.replace(
    /[\u0085\u2028\u2029]/g,
    character => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}
