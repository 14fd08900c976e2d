import type { ToolCall, TurnEvent } from '../agent/turn.ts'
import type { Usage } from '../engine/engine.ts'
import { REPAIRS } from '../harmony/repair.ts'
import { StreamingDecoder } from '../tokenizer/streaming-decoder.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { Shell } from './command.ts'
import { dim, StatusLine, safeFor } from './terminal.ts'

export interface AnswerView {
  /** Chain of thought too, on stderr. */
  showReasoning?: boolean
  /** The model's tokens as they are, control tokens in full, instead of what they mean. */
  raw?: boolean
  /** Where an answer ends that nothing else ends. */
  maxTokens?: number
}

/** Prints turns as they come: answers to stdout, all else to stderr, progress only where a terminal shows it. */
export class AnswerPrinter {
  readonly #shell: Shell
  readonly #view: AnswerView
  readonly #contextLength: number
  readonly #status: StatusLine
  readonly #decoder: StreamingDecoder
  #line: { kind: string; stream: NodeJS.WriteStream; ended: boolean } | undefined
  #numTokens = 0

  constructor(shell: Shell, model: { tokenizer: Tokenizer; info: { contextLength: number } }, view: AnswerView) {
    this.#shell = shell
    this.#view = view
    this.#contextLength = model.info.contextLength
    this.#status = new StatusLine(shell.stderr)
    this.#decoder = new StreamingDecoder(model.tokenizer)
  }

  print(event: TurnEvent): void {
    if (this.#view.raw) this.#printRaw(event)
    else this.#printMeaning(event)
    if (event.type === 'prefill') {
      this.#status.show(`reading the prompt: ${count(event.done)} of ${count(event.total)} tokens`)
    }
    if (event.type === 'repair' && (this.#view.raw || this.#view.showReasoning)) {
      this.note(`repaired at token ${event.repair.at}: ${REPAIRS[event.repair.kind]}`)
    }
    if (event.type !== 'end') return
    this.finish()
    if (event.reason === 'length') this.note(this.#whyItEnds(event.usage))
  }

  #printRaw(event: TurnEvent): void {
    if (event.type === 'token') this.#write('raw', this.#shell.stdout, this.#decoder.push(event.token))
    if (event.type === 'end') this.#write('raw', this.#shell.stdout, this.#decoder.finish())
  }

  #printMeaning(event: TurnEvent): void {
    const { stdout, stderr } = this.#shell
    if (event.type === 'token') this.#numTokens++
    if (event.type === 'final' || event.type === 'preamble') this.#write(event.type, stdout, event.text)
    if (event.type === 'call') this.note(callText(event.call))
    if (event.type !== 'analysis') return
    if (this.#view.showReasoning) this.#write('analysis', stderr, event.text)
    else this.#status.show(`thinking: ${count(this.#numTokens)} tokens`)
  }

  /** Ends the line that is being written, if one is, and what was begun of an answer. */
  finish(): void {
    this.#decoder.finish()
    this.#status.clear()
    if (this.#line && !this.#line.ended) this.#line.stream.write('\n')
    this.#line = undefined
    this.#numTokens = 0
  }

  /** A word about the answer, beside it. */
  note(text: string): void {
    const numTokens = this.#numTokens
    this.finish()
    this.#numTokens = numTokens
    const { stderr } = this.#shell
    stderr.write(`${dim(safeFor(stderr, `[${text}]`), stderr)}\n`)
  }

  #write(kind: string, stream: NodeJS.WriteStream, text: string): void {
    if (text === '') return
    this.#status.clear()
    if (this.#line && this.#line.kind !== kind && !this.#line.ended) this.#line.stream.write('\n')
    const safe = safeFor(stream, text)
    stream.write(kind === 'analysis' ? dim(safe, stream) : safe)
    this.#line = { kind, stream, ended: text.endsWith('\n') }
  }

  #whyItEnds({ promptTokens, completionTokens }: Usage): string {
    if (promptTokens + completionTokens >= this.#contextLength) {
      return `the answer ends here: the context of ${count(this.#contextLength)} tokens is full`
    }
    return `the answer ends here: it has reached --max-tokens=${this.#view.maxTokens}`
  }
}

function callText({ recipient, arguments: given, complete }: ToolCall): string {
  return `the model calls ${recipient} with ${given}${complete ? '' : ' (cut off)'}`
}

export const count = (n: number): string => n.toLocaleString('en-US')
