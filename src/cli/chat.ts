import { accessSync, constants, existsSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Model, SessionFileOptions } from '../agent/model.ts'
import { RequestError } from '../base/errors.ts'
import type { ReasoningEffort } from '../harmony/message.ts'
import { showMemory } from '../model/memory.ts'
import { AnswerPrinter, count } from './answer-printer.ts'
import { defineCommand, exitCodes, type Shell } from './command.ts'
import { Dialogue } from './dialogue.ts'
import { LineReader } from './line-reader.ts'
import { loadModel, loadOptions } from './load-model.ts'
import { interruptible, type ModelValues, respondOptions, showProgress } from './model-options.ts'
import { text } from './options.ts'
import { dim, readLines, StatusLine } from './terminal.ts'

export const chat = defineCommand({
  name: 'chat',
  summary: 'talk in the terminal',
  argument: '[PROMPT]',
  about: [
    'Talks with a model, one turn after the other. With a PROMPT it answers that and ends; when its input is no ' +
      'terminal, each line of it is a turn. Answers go to stdout, all else to stderr.',
    'At the prompt the arrow keys bring back what you typed, Ctrl-C stops an answer, Ctrl-D leaves, and lines pasted ' +
      'at once are one message. /help lists the commands. When a conversation outgrows the context, its oldest turns ' +
      'leave whole, and the chat says so.',
    'With --session a long conversation is computed once: the file holds it, and what the model made of it (25 KB a ' +
      'token of gpt-oss-20b), and is written when the chat ends. Only you can read it.',
  ],
  options: {
    ...loadOptions,
    session: text('FILE', 'go on with the conversation in FILE without computing it again, and keep it there'),
  },
  examples: [
    ['tutti chat', 'talks with nano, the embedded demonstration model'],
    ['tutti chat "What is MXFP4?"', 'answers and ends'],
    ['tutti chat --model=gpt-oss-20b', 'talks with gpt-oss-20b; offers to download it where it is not there'],
    ['tutti chat --model=models/gpt-oss-20b --reasoning=high --show-reasoning', 'thinks long, where you can see it'],
    ['tutti chat --developer="Always answer in uppercase."', 'sets a rule that outranks yours'],
    ['tutti chat --session=report.session', 'goes on where the last chat with this file ended'],
    ['tutti chat --raw', 'shows the Harmony that the model writes'],
  ],
  async run({ values, positionals }, shell) {
    await using model = await loadModel(values, shell)
    if (!model) return exitCodes.interrupted
    const talk = new Talk(model, values, shell)
    if (!(await talk.resume())) return exitCodes.interrupted
    const code =
      positionals.length > 0
        ? await talk.answerOnce(positionals.join(' '))
        : await (shell.stdin.isTTY ? talk.converse() : talk.answerLines())
    return (await talk.save()) ? code : exitCodes.interrupted
  },
})

/** A chat with its printer: one prompt, the lines of a pipe, or a person at a terminal. */
class Talk {
  readonly #model: Model
  readonly #shell: Shell
  readonly #printer: AnswerPrinter
  readonly #dialogue: Dialogue
  /** Where the conversation is kept. */
  readonly #path: string | undefined

  constructor(model: Model, values: ModelValues & { session?: string }, shell: Shell) {
    this.#model = model
    this.#shell = shell
    this.#path = values.session
    const { 'show-reasoning': showReasoning, raw, 'max-tokens': maxTokens } = values
    this.#printer = new AnswerPrinter(shell, model, { showReasoning, raw, maxTokens })
    this.#dialogue = new Dialogue(model, respondOptions(values), turns =>
      this.#printer.note(
        `the context of ${count(model.info.contextLength)} tokens is full: the oldest ` +
          `${turns === 1 ? 'turn' : `${turns} turns`} left the conversation`,
      ),
    )
  }

  /** Goes on with the conversation of the file, if there is one. False if Ctrl-C stopped it. */
  async resume(): Promise<boolean> {
    const path = this.#path
    if (path === undefined) return true
    if (!existsSync(path)) {
      checkFolder(path)
      return true
    }
    return this.#copy('reading', async options => {
      const { messages, tokens, refused } = await this.#model.restoreSession(path, options)
      this.#dialogue.resume(messages)
      this.#say(refused ?? `the conversation in ${path} goes on: ${count(tokens)} tokens`)
    })
  }

  /** Keeps what was said in the file. False if Ctrl-C stopped it. */
  async save(): Promise<boolean> {
    const path = this.#path
    const { messages, options } = this.#dialogue
    if (path === undefined || messages.length === 0) return true
    return this.#copy('writing', async copying => {
      const { tokens } = await this.#model.saveSession(path, messages, { ...options, ...copying })
      this.#say(`${count(tokens)} tokens are kept in ${path}`)
    })
  }

  async #copy(what: string, work: (options: SessionFileOptions) => Promise<void>): Promise<boolean> {
    const status = new StatusLine(this.#shell.stderr)
    const onProgress = (done: number, total: number) => {
      status.show(`${what} ${this.#path}: ${showProgress(done, total)}`)
      if (done === total) status.clear()
    }
    try {
      return await interruptible(this.#shell, signal => work({ signal, onProgress }))
    } finally {
      status.clear()
    }
  }

  async answerOnce(prompt: string): Promise<number> {
    this.#say(this.#model.notice)
    return (await this.#answer(prompt)) ? exitCodes.success : exitCodes.interrupted
  }

  async answerLines(): Promise<number> {
    this.#say(this.#model.notice)
    for await (const line of readLines(this.#shell.stdin)) {
      if (line.trim() !== '' && !(await this.#answer(line))) return exitCodes.interrupted
    }
    return exitCodes.success
  }

  async converse(): Promise<number> {
    const { model, device, contextLength, memory } = this.#model.info
    this.#say(
      `${model} on the ${device} device${memory ? ` with ${showMemory(memory)}` : ''}, ` +
        `context ${count(contextLength)} tokens, reasoning ${this.#reasoning}`,
    )
    this.#say(this.#model.notice)
    this.#say('/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves')
    const reader = new LineReader(this.#shell.stdin, this.#shell.stderr)
    // A Ctrl-C that comes a moment too late, between an answer and the next prompt, must not end the program.
    const release = this.#shell.onInterrupt(() => {})
    try {
      await this.#prompts(reader)
    } finally {
      release()
    }
    return exitCodes.success
  }

  /** Until the person leaves. */
  async #prompts(reader: LineReader): Promise<void> {
    for (let interrupts = 0; interrupts < 2; ) {
      const entry = await reader.read('> ')
      if (entry.type === 'end') return
      if (entry.type === 'interrupt') {
        if (++interrupts === 1) this.#say('Ctrl-C again leaves, and so does Ctrl-D')
        continue
      }
      interrupts = 0
      if ((await this.#obey(entry.text)) === 'quit') return
    }
  }

  /** An entry at the prompt: a command of the chat, or a turn. */
  async #obey(text: string): Promise<'quit' | undefined> {
    const [, command, argument] = /^\/(\w+)(?:\s+(.*))?\s*$/.exec(text) ?? []
    switch (command) {
      case undefined:
        if (text.trim() !== '') await this.#turn(text)
        return
      case 'quit':
      case 'exit':
        return 'quit'
      case 'reset':
        this.#dialogue.reset()
        return this.#say('a new conversation begins')
      case 'reasoning':
        return this.#setReasoning(argument)
      case 'help':
        return this.#say(chatHelp)
      default:
        return this.#say(`there is no command /${command}; /help lists them`)
    }
  }

  /** One turn of a conversation, which goes on whatever becomes of it. */
  async #turn(text: string): Promise<void> {
    try {
      if (!(await this.#answer(text))) this.#printer.note('stopped')
    } catch (error) {
      if (!(error instanceof RequestError)) throw error
      this.#shell.stderr.write(`${error.message}\n`)
    }
  }

  /** False if Ctrl-C stopped it. */
  async #answer(text: string): Promise<boolean> {
    try {
      return await interruptible(this.#shell, async signal => {
        for await (const event of this.#dialogue.ask(text, signal)) this.#printer.print(event)
      })
    } finally {
      this.#printer.finish()
    }
  }

  #setReasoning(effort: string | undefined): undefined {
    const known = (['low', 'medium', 'high'] as const).find(word => word === effort)
    if (known) this.#dialogue.reasoning = known
    this.#say(known ? `reasoning ${known}` : `reasoning is ${this.#reasoning}; say /reasoning low, medium or high`)
  }

  get #reasoning(): ReasoningEffort {
    return this.#dialogue.options.reasoning ?? this.#model.defaults.reasoning
  }

  #say(text: string | undefined): undefined {
    const { stderr } = this.#shell
    if (text !== undefined) stderr.write(`${dim(text, stderr)}\n`)
  }
}

/** Throws RequestError where no file can be made, before there is something to lose. */
function checkFolder(path: string): void {
  const folder = dirname(path)
  try {
    accessSync(folder, constants.W_OK)
    if (statSync(folder).isDirectory()) return
  } catch {
    // there is none, or not for this user
  }
  throw new RequestError(`${path} cannot be written: there is no folder ${folder} that this user may write to`)
}

const chatHelp = [
  '/reasoning low|medium|high   how long the model may think from now on',
  '/reset                       begin a new conversation',
  '/quit                        leave (as Ctrl-D does)',
  '/help                        this list',
].join('\n')
