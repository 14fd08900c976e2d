import { readFileSync } from 'node:fs'
import { CheckpointError, DeviceError, HarmonyError, RequestError } from '../base/errors.ts'
import { load } from '../index.ts'
import { bench } from './bench.ts'
import { chat } from './chat.ts'
import { type AnyCommand, exitCodes, type Shell } from './command.ts'
import { doctor } from './doctor.ts'
import { generate } from './generate.ts'
import { helpOf, overview } from './help.ts'
import { models } from './models.ts'
import { didYouMean, readArguments } from './options.ts'
import { pull } from './pull.ts'
import { render } from './render.ts'
import { rm } from './rm.ts'
import { tokens } from './tokens.ts'

export const commands: readonly AnyCommand[] = [chat, generate, pull, models, rm, tokens, render, bench, doctor]

/** Runs a command line in this process and sets its exit code. */
export async function main(args: readonly string[]): Promise<void> {
  // A reader that has seen enough (`tutti … | head -1`) is no failure.
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') process.exit(exitCodes.success)
      throw error
    })
  }
  process.exitCode = await runCommandLine(args, processShell)
}

/** Runs `tutti …args` and resolves to its exit code; never rejects. */
export async function runCommandLine(args: readonly string[], shell: Shell): Promise<number> {
  let run: () => Promise<number>
  try {
    run = plan(args, shell)
  } catch (error) {
    shell.stderr.write(`tutti: ${messageOf(error)}\n`)
    return exitCodes.usage
  }
  try {
    return await run()
  } catch (error) {
    shell.stderr.write(`tutti: ${messageOf(error)}\n`)
    return exitCodes.failure
  }
}

/** What the arguments ask for, ready to run. Throws RequestError for wrong usage. */
function plan([name, ...args]: readonly string[], shell: Shell): () => Promise<number> {
  if (name === undefined) throw new RequestError('say what to do: tutti chat, or tutti --help for all commands')
  if (name === '--help' || name === '-h' || name === 'help') return () => print(shell, overview(commands))
  if (name === '--version' || name === '-v') return () => print(shell, `${version()}\n`)
  const command = commands.find(known => known.name === name)
  if (!command) {
    const known = Object.fromEntries(commands.map(known => [known.name, known]))
    throw new RequestError(`there is no command ${name}${didYouMean(name, known, 'tutti ') || '; see tutti --help'}`)
  }
  if (asksForHelp(args)) return () => print(shell, helpOf(command))
  const invocation = explained(command, () => readArguments(args, command.options))
  return () => command.run(invocation, shell)
}

function asksForHelp(args: readonly string[]): boolean {
  const end = args.indexOf('--')
  return args.slice(0, end < 0 ? args.length : end).some(arg => arg === '--help' || arg === '-h')
}

/** Adds to a usage error where to read on. */
function explained<T>({ name }: AnyCommand, read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (error instanceof RequestError) throw new RequestError(`${error.message} (see tutti ${name} --help)`)
    throw error
  }
}

async function print(shell: Shell, text: string): Promise<number> {
  shell.stdout.write(text)
  return exitCodes.success
}

function messageOf(error: unknown): string {
  if (process.env.TUTTI_DEBUG) return error instanceof Error ? (error.stack ?? error.message) : String(error)
  const message = error instanceof Error ? error.message : String(error)
  const expected = [CheckpointError, DeviceError, HarmonyError, RequestError].some(kind => error instanceof kind)
  return expected ? message : `something unforeseen went wrong: ${message} (TUTTI_DEBUG=1 shows where)`
}

function version(): string {
  return JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).version
}

const processShell: Shell = {
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  load,
  onInterrupt(handler) {
    process.on('SIGINT', handler)
    return () => process.off('SIGINT', handler)
  },
}
