import type { LoadOptions, Model } from '../index.ts'
import type { Options, Values } from './options.ts'

/** What a command may touch of the world: replaced in tests. */
export interface Shell {
  stdin: NodeJS.ReadStream
  stdout: NodeJS.WriteStream
  stderr: NodeJS.WriteStream
  load: (model: string, options: LoadOptions) => Promise<Model>
  /** Calls `handler` at each Ctrl-C until the returned function is called. */
  onInterrupt: (handler: () => void) => () => void
}

/** A word after `tutti`, with all that its help says. */
export interface Command<O extends Options = Options> {
  name: string
  /** One line for the list of commands. */
  summary: string
  /** How the argument is written: `[PROMPT]`. */
  argument: string
  /** What it does, in paragraphs. */
  about: readonly string[]
  options: O
  /** Command lines, each with what it does. */
  examples: readonly (readonly [command: string, effect: string])[]
  /** Resolves to the exit code. */
  run: (invocation: { values: Values<O>; positionals: string[] }, shell: Shell) => Promise<number>
}

/** A command of any options, for tables of them. */
export type AnyCommand = Omit<Command, 'run'> & {
  run: (invocation: { values: Values<Options>; positionals: string[] }, shell: Shell) => Promise<number>
}

/** Types a command's values by its options. */
export function defineCommand<const O extends Options>(command: Command<O>): AnyCommand {
  return command as unknown as AnyCommand
}

export const exitCodes = { success: 0, failure: 1, usage: 2, interrupted: 130 } as const
