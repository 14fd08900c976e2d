import { readFile } from 'node:fs/promises'
import { RequestError } from '../base/errors.ts'
import { renderForCompletion } from '../harmony/render.ts'
import { loadTokenizer } from '../tokenizer/load.ts'
import { defineCommand, exitCodes } from './command.ts'
import { flag } from './options.ts'
import { readConversation } from './read-conversation.ts'
import { readAll, safeFor } from './terminal.ts'

export const render = defineCommand({
  name: 'render',
  summary: 'a conversation to the prompt that the model gets',
  argument: '[FILE]',
  about: [
    'Reads a conversation as JSON from the FILE, or from stdin when there is none: an array of messages, or an object ' +
      'with messages. A message has a role (system, developer, user, assistant, tool), a content (text, or an array of ' +
      'parts of type text, system or developer) and perhaps name, recipient, channel and contentType, as the types of ' +
      'tutti/harmony describe them. Prints the Harmony prompt, up to where the assistant goes on.',
  ],
  options: {
    ids: flag('print token ids instead of text'),
    strict: flag('render exactly as openai-harmony does, what could break out included'),
  },
  examples: [
    ['tutti render conversation.json', 'prints the prompt'],
    ['echo \'[{"role":"user","content":"Hi"}]\' | tutti render', 'reads the conversation from a pipe'],
    ['tutti render --ids conversation.json | wc -w', 'counts the tokens of the prompt'],
  ],
  async run({ values, positionals }, { stdin, stdout }) {
    if (positionals.length > 1) throw new RequestError(`${positionals.length} files are given; render reads one`)
    const json = positionals.length === 1 ? await readConversationFile(positionals[0]) : await readAll(stdin)
    const messages = readConversation(json)
    const tokenizer = await loadTokenizer()
    const ids = renderForCompletion(tokenizer, messages, 'assistant', { mode: values.strict ? 'strict' : 'default' })
    if (values.ids) stdout.write(`${ids.join(' ')}\n`)
    else stdout.write(safeFor(stdout, tokenizer.decode(ids)) + (stdout.isTTY ? '\n' : ''))
    return exitCodes.success
  },
})

async function readConversationFile(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    throw new RequestError(`the conversation cannot be read: ${(error as Error).message}`)
  }
}
