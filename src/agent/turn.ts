import type { EndReason, Engine, GenerateRequest, Usage } from '../engine/engine.ts'
import { type Message, textOf } from '../harmony/message.ts'
import { type Ended, HarmonyParser, type ParserEvent } from '../harmony/parser.ts'
import type { Repair } from '../harmony/repair.ts'
import { START } from '../harmony/tokens.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'

/** A tool call of the model. Its arguments are the text that it wrote: JSON for functions, code for python. */
export interface ToolCall {
  /** `functions.get_weather`, `python`, `browser.search`: a name that a tool may have. */
  recipient: string
  arguments: string
  contentType?: string
  /** False when the answer ended before the call did: the arguments may be incomplete. */
  complete: boolean
}

/** What happens in one assistant turn, in order. Text comes in pieces; a piece never splits a character. */
export type TurnEvent =
  /** It waits, behind so many others and probably for so long. */
  | { type: 'queued'; ahead: number; waitMs?: number }
  /** `done` of the `total` prompt tokens to be run are run; `cached` were reused. */
  | { type: 'prefill'; cached: number; done: number; total: number }
  /** Chain of thought: never to be shown to end users unless the operator chose so. */
  | { type: 'analysis'; text: string }
  /** Words to the user before a tool call. */
  | { type: 'preamble'; text: string }
  /** The answer. */
  | { type: 'final'; text: string }
  | { type: 'call'; call: ToolCall }
  /** A finished message of the turn, for the history. */
  | { type: 'message'; message: Message }
  /** The model's tokens broke the format here, and what was made of it. */
  | { type: 'repair'; repair: Repair }
  | { type: 'token'; token: number; logprob?: number; topLogprobs?: { token: number; logprob: number }[] }
  | { type: 'end'; reason: EndReason; usage: Usage; messages: Message[] }

export interface TurnRequest extends Omit<GenerateRequest, 'tokens' | 'marks'> {
  /** The rendered prompt, up to and including `<|start|>assistant`. */
  prompt: readonly number[]
  /** Recipients that exist, so that a damaged name can be matched to one. */
  recipients?: Iterable<string>
}

/**
 * Generates one assistant turn and reads it as Harmony. Whatever the model writes gives events; it rejects only as the
 * engine does (cancelled, refused, device lost).
 */
export async function* runTurn(
  engine: Engine,
  tokenizer: Tokenizer,
  { prompt, recipients, ...request }: TurnRequest,
  options: { signal?: AbortSignal } = {},
): AsyncGenerator<TurnEvent> {
  const parser = new HarmonyParser(tokenizer, { recipients })
  const reader = new TurnReader()
  const marks = forksOf(tokenizer, prompt)
  for await (const event of engine.generate({ ...request, tokens: prompt, marks }, options)) {
    if (event.type === 'queued' || event.type === 'prefill') yield event
    else if (event.type === 'token') {
      yield event
      yield* reader.read(parser.push(event.token))
    } else {
      yield* reader.read(parser.finish())
      yield { ...event, messages: reader.messages }
    }
  }
}

/**
 * Where conversations part: behind their instructions, which others share; behind `<|start|>`, where another message may
 * come instead of the answer, or the answer again; and behind the answer's first `<|channel|>`, where it will go on without
 * its thoughts in later prompts.
 */
function forksOf(tokenizer: Tokenizer, prompt: readonly number[]): number[] {
  const instructors = ['system', 'developer'].map(role => tokenizer.encode(role)[0])
  const talk = prompt.findIndex((token, i) => token === START && !instructors.includes(prompt[i + 1]))
  return [...(talk > 0 ? [talk + 1] : []), prompt.length - 1, prompt.length + 1]
}

/** What the parser's events mean to whoever asked. */
class TurnReader {
  readonly messages: Message[] = []
  /** Whether the open message is one. */
  #isCall = false;

  *read(events: Iterable<ParserEvent>): Generator<TurnEvent> {
    for (const event of events) {
      switch (event.type) {
        case 'header':
          this.#isCall = event.recipient !== undefined
          break
        case 'delta':
          if (!this.#isCall) yield { type: textEvent(event.channel), text: event.text }
          break
        case 'message':
          yield* this.#finished(event.message, event.ended)
          break
        case 'repair':
          yield event
          break
        default:
          event satisfies never
      }
    }
  }

  *#finished(message: Message, ended: Ended): Generator<TurnEvent> {
    this.messages.push(message)
    if (message.recipient !== undefined) yield { type: 'call', call: callOf(message, ended) }
    yield { type: 'message', message }
  }
}

/** Only what says that it is final is shown as an answer. */
function textEvent(channel: string | undefined): 'analysis' | 'preamble' | 'final' {
  if (channel === 'final') return 'final'
  return channel === 'commentary' ? 'preamble' : 'analysis'
}

function callOf(message: Message, ended: Ended): ToolCall {
  const { recipient = '', contentType } = message
  return { recipient, arguments: textOf(message), contentType, complete: ended !== 'cut' }
}
