import { PassThrough } from 'node:stream'
import { Model } from '../agent/model.ts'
import type { EngineInfo } from '../engine/engine.ts'
import { ScriptedEngine } from '../engine/testing.ts'
import { loadTokenizer } from '../tokenizer/load.ts'
import type { Shell } from './command.ts'
import { runCommandLine } from './command-line.ts'

// Node's test runner forces colours on its files when it has a terminal itself: here they follow the fake streams.
delete process.env.FORCE_COLOR

const tokenizer = await loadTokenizer()

/** Harmony as text to the tokens that a model would generate. */
export const harmony = (text: string): number[] => tokenizer.encode(text, { allowedSpecial: 'all' })

/** The tokens of a turn that thinks, answers and ends. */
export const answering = (text: string, thought = 'Hm.'): number[] =>
  harmony(
    `<|channel|>analysis<|message|>${thought}<|end|><|start|>assistant<|channel|>final<|message|>${text}<|return|>`,
  )

/** A shell without a terminal or, with `tty`, with one; its model says what the script says. */
export class FakeShell implements Shell {
  readonly stdin: NodeJS.ReadStream
  readonly stdout: NodeJS.WriteStream
  readonly stderr: NodeJS.WriteStream
  readonly engine: ScriptedEngine
  /** What was printed, stream by stream. */
  readonly printed = { stdout: '', stderr: '' }
  /** What was asked of `load`. */
  readonly loads: { model: string; contextLength?: number }[] = []
  readonly #handlers = new Set<() => void>()

  constructor(
    script: ConstructorParameters<typeof ScriptedEngine>[0] = [answering('Hello.')],
    options: { tty?: boolean; input?: string; info?: Partial<EngineInfo> } = {},
  ) {
    const { tty = false, input, info } = options
    const stream = (isTTY: boolean) => Object.assign(new PassThrough(), { isTTY, columns: 80, setRawMode: () => {} })
    this.stdin = stream(tty) as unknown as NodeJS.ReadStream
    this.stdout = stream(tty) as unknown as NodeJS.WriteStream
    this.stderr = stream(tty) as unknown as NodeJS.WriteStream
    this.stdout.on('data', chunk => (this.printed.stdout += chunk))
    this.stderr.on('data', chunk => (this.printed.stderr += chunk))
    if (input !== undefined) (this.stdin as unknown as PassThrough).end(input)
    this.engine = new ScriptedEngine(script, info)
  }

  load: Shell['load'] = async (model, { contextLength, onProgress }) => {
    this.loads.push({ model, contextLength })
    onProgress?.(1, 2)
    return new Model(this.engine, tokenizer)
  }

  onInterrupt(handler: () => void): () => void {
    this.#handlers.add(handler)
    return () => this.#handlers.delete(handler)
  }

  /** Ctrl-C while no prompt is shown. */
  interrupt(): void {
    for (const handler of this.#handlers) handler()
  }

  /** Types at the terminal. */
  type(text: string): void {
    ;(this.stdin as unknown as PassThrough).write(text)
  }

  /** Waits until the text is printed, or until the condition holds. */
  async until(condition: string | (() => boolean)): Promise<void> {
    const { printed } = this
    const holds =
      typeof condition === 'string'
        ? () => printed.stderr.includes(condition) || printed.stdout.includes(condition)
        : condition
    for (let waited = 0; !holds(); waited += 5) {
      if (waited > 10_000) throw new Error(`${condition} never came true: ${JSON.stringify(printed)}`)
      await new Promise(resolve => setTimeout(resolve, 5))
    }
  }

  /** The prompt of the engine's nth request, as text. */
  prompt(index = -1): string {
    return tokenizer.decode(this.engine.requests.at(index)?.tokens ?? [])
  }

  /** Runs a command line; its exit code and what it printed. */
  async run(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
    const code = await runCommandLine(args, this)
    await new Promise(resolve => setImmediate(resolve))
    return { code, ...this.printed }
  }
}
