import type { AnyCommand } from './command.ts'
import type { Options } from './options.ts'

const width = 100

/** `tutti --help`. */
export function overview(commands: readonly AnyCommand[]): string {
  return [
    'tutti: gpt-oss in TypeScript, on your own machine',
    '',
    'Usage: tutti COMMAND [options]',
    '',
    ...table(commands.map(({ name, summary }) => [name, summary])),
    '',
    'tutti COMMAND --help explains a command; tutti --version says which tutti this is.',
    'Errors are one sentence on stderr; TUTTI_DEBUG=1 adds where they come from. NO_COLOR=1 turns colours off.',
    'Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.',
    '',
  ].join('\n')
}

/** `tutti COMMAND --help`. */
export function helpOf({ name, summary, argument, about, options, examples }: AnyCommand): string {
  return [
    `tutti ${name}: ${summary}`,
    '',
    `Usage: tutti ${name} [options] ${argument}`,
    ...about.flatMap(paragraph => ['', ...wrap(paragraph, width)]),
    '',
    'Options:',
    ...table([...optionRows(options), ['--help', 'print this help']]),
    '',
    'Examples:',
    ...examples.flatMap(([command, effect]) => [`  ${command}`, `      ${effect}`]),
    '',
  ].join('\n')
}

function optionRows(options: Options): [string, string][] {
  return Object.entries(options).map(([name, { hint, help }]) => [`--${name}${hint ? `=${hint}` : ''}`, help])
}

/** Two columns, the second one wrapped. */
function table(rows: readonly (readonly [string, string])[]): string[] {
  const left = Math.max(...rows.map(([name]) => name.length)) + 4
  return rows.flatMap(([name, help]) =>
    wrap(help, width - left).map((line, i) => (i === 0 ? `  ${name}` : '').padEnd(left) + line),
  )
}

function wrap(text: string, columns: number): string[] {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > columns) {
      lines.push(line)
      line = word
    } else line = line === '' ? word : `${line} ${word}`
  }
  return [...lines, line]
}
