import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { Message, Role } from './message.ts'
import type { Machine, OpenMessage, ParserEvent, ParserState } from './parser-events.ts'
import { ReferenceMachine } from './parser-reference.ts'
import { TotalMachine } from './parser-total.ts'
import type { Repair } from './repair.ts'

export type { Ended, OpenMessage, ParserEvent, ParserState } from './parser-events.ts'

export interface ParserOptions {
  /**
   * Whose first message it is, when its `<|start|>` and role are in the prompt already: `assistant` by default, as
   * generation goes. null: the tokens begin with `<|start|>`.
   */
  role?: Role | null
  /**
   * `total` (default): every token sequence gives messages, and every repair is reported. `strict` and `lenient`: what
   * openai-harmony 0.0.8 does with and without its `strict`, errors included.
   */
  mode?: 'total' | 'strict' | 'lenient'
  /** Names of the tools that can be called (`functions.get_weather`, `python`), in total mode. */
  recipients?: Iterable<string>
}

/**
 * Reads what the model writes, token by token: `push` each token as it is sampled, the stop token too, then `finish`.
 *
 * In total mode all messages are the assistant's, on one of the three channels. Text without a header is held back
 * until its end: it is commentary if that is `<|return|>`, else analysis; only what says `final` is final.
 * In the other modes push and finish throw HarmonyError where the reference fails.
 */
export class HarmonyParser {
  readonly #machine: Machine

  constructor(tokenizer: Tokenizer, { role = 'assistant', mode = 'total', recipients }: ParserOptions = {}) {
    this.#machine =
      mode === 'total'
        ? new TotalMachine(tokenizer, role !== null, recipients && new Set(recipients))
        : new ReferenceMachine(tokenizer, role ?? undefined, mode === 'lenient')
  }

  push(token: number): ParserEvent[] {
    return this.#machine.push(token)
  }

  /** The input is over: an open message ends here. */
  finish(): ParserEvent[] {
    return this.#machine.finish()
  }

  /** The messages that have ended. */
  get messages(): Message[] {
    return this.#machine.messages
  }

  get state(): ParserState {
    return this.#machine.state
  }

  /** What is known of the message that is being read. */
  get open(): OpenMessage {
    return this.#machine.open
  }
}

/** The messages and repairs of a whole completion. Throws HarmonyError in strict and lenient mode only. */
export function parseCompletion(
  tokenizer: Tokenizer,
  tokens: Iterable<number>,
  options: ParserOptions = {},
): { messages: Message[]; repairs: Repair[] } {
  const parser = new HarmonyParser(tokenizer, options)
  const repairs: Repair[] = []
  const note = (events: ParserEvent[]) => {
    for (const event of events) if (event.type === 'repair') repairs.push(event.repair)
  }
  for (const token of tokens) note(parser.push(token))
  note(parser.finish())
  return { messages: parser.messages, repairs }
}
