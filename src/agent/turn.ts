import type { Engine, EndReason, GenerateRequest, Usage } from '../engine/engine.ts'
import type { Message } from '../harmony/message.ts'
import { HarmonyParser, type Repair } from '../harmony/parser.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'

/** A tool call of the model. Its arguments are the text that it wrote: JSON for functions, code for python. */
export interface ToolCall {
  /** `functions.get_weather`, `python`, `browser.search` */
  recipient: string
  arguments: string
  contentType?: string
  /** False when the answer ended before the call did: the arguments may be incomplete. */
  complete: boolean
}

/** What happens in one assistant turn, in order. Text comes in pieces; a piece never splits a character. */
export type TurnEvent =
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

export interface TurnRequest extends Omit<GenerateRequest, 'tokens'> {
  /** The rendered prompt, up to and including `<|start|>assistant`. */
  prompt: readonly number[]
  /** Recipients that exist, so that a damaged name can be matched to one. */
  recipients?: Iterable<string>
}

/** Generates one assistant turn and reads it as Harmony. Total: whatever the model writes gives events. */
export async function* runTurn(
  engine: Engine,
  tokenizer: Tokenizer,
  { prompt, recipients, ...request }: TurnRequest,
  options: { signal?: AbortSignal } = {},
): AsyncGenerator<TurnEvent> {
  const parser = new HarmonyParser(tokenizer, { role: 'assistant', recipients })
  for await (const event of engine.generate({ ...request, tokens: prompt }, options)) {
    if (event.type === 'prefill') yield event
    else if (event.type === 'token') {
      yield event
      yield* turnEvents(parser.push(event.token))
    } else {
      yield* turnEvents(parser.finish())
      yield { ...event, messages: parser.messages }
    }
  }
}
