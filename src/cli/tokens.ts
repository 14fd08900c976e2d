import { RequestError } from '../base/errors.ts'
import { loadTokenizer } from '../tokenizer/load.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { defineCommand, exitCodes } from './command.ts'
import { flag } from './options.ts'
import { readAll, safeFor } from './terminal.ts'

export const tokens = defineCommand({
  name: 'tokens',
  summary: 'text to token ids and back',
  argument: '[TEXT | IDS]',
  about: [
    'Prints the o200k_harmony tokens of the TEXT, or of all of stdin when there is none: a line for each, with its id ' +
      'and the characters that it stands for; parts of a character are printed as bytes. What spells a control token is ' +
      'ordinary text, unless --special is given.',
    'With --decode it is the other way round: ids, separated by spaces, commas or lines, become text.',
  ],
  options: {
    decode: flag('ids to text'),
    special: flag('let <|start|> and its like be control tokens'),
    ids: flag('print the ids alone, on one line'),
    json: flag('print {"ids":[…],"pieces":[…]}; with --decode {"text":"…"}'),
  },
  examples: [
    ['tutti tokens "What is MXFP4?"', 'prints a line for each token'],
    ['tutti tokens --ids < essay.txt | wc -w', 'counts the tokens of a file'],
    ['tutti tokens --decode 4827 382 49414', 'prints the text of these ids'],
    ['tutti tokens --special "<|start|>user<|message|>Hi<|end|>"', 'reads control tokens as such'],
  ],
  async run({ values, positionals }, { stdin, stdout }) {
    const input = positionals.length > 0 ? positionals.join(' ') : await readAll(stdin)
    const tokenizer = await loadTokenizer()
    if (values.decode) {
      const text = tokenizer.decode(readIds(input))
      stdout.write(values.json ? `${JSON.stringify({ text })}\n` : safeFor(stdout, text) + (stdout.isTTY ? '\n' : ''))
      return exitCodes.success
    }
    const ids = tokenizer.encode(input, values.special ? { allowedSpecial: 'all' } : {})
    if (values.json) stdout.write(`${JSON.stringify({ ids, pieces: ids.map(id => pieceOf(id, tokenizer)) })}\n`)
    else if (values.ids) stdout.write(`${ids.join(' ')}\n`)
    else stdout.write(ids.map(id => `${String(id).padStart(6)}  ${pieceOf(id, tokenizer)}\n`).join(''))
    return exitCodes.success
  },
})

function readIds(text: string): number[] {
  return text
    .split(/[\s,[\]]+/)
    .filter(word => word !== '')
    .map(word => {
      if (/^\d{1,15}$/.test(word)) return Number(word)
      throw new RequestError(`${JSON.stringify(word)} is not a token id: --decode reads whole numbers`)
    })
}

/** A token as a JSON string; a control token by its name; bytes that are no whole characters as such. */
function pieceOf(id: number, tokenizer: Tokenizer): string {
  const name = tokenizer.specialName(id)
  if (name !== undefined) return name
  const bytes = tokenizer.tokenBytes(id) ?? new Uint8Array()
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    return JSON.stringify(text).replace(/[\x7f-\x9f]/g, character => `\\u00${character.charCodeAt(0).toString(16)}`)
  } catch {
    return `<${[...bytes].map(byte => byte.toString(16).padStart(2, '0')).join(' ')}>`
  }
}
