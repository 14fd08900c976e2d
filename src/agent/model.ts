import { DeviceError, RequestError } from '../base/errors.ts'
import type {
  CopiedEvent,
  Engine,
  EngineInfo,
  GenerateEvent,
  GenerateRequest,
  SamplingOptions,
} from '../engine/engine.ts'
import type { Message, ReasoningEffort } from '../harmony/message.ts'
import { renderConversation, renderForCompletion } from '../harmony/render.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { conversation, declaredTools, type Instructions } from './conversation.ts'
import { type Fitted, fitToContext } from './history.ts'
import { runTurn, type TurnEvent } from './turn.ts'

const nanoNotice =
  'gpt-oss-nano is a tiny demonstration model: it shows the format, knows next to nothing and is not for real use.'

export interface RespondOptions extends Instructions {
  /** At most this many tokens, reasoning included; by default as many as the context holds. */
  maxTokens?: number
  /** Default: as the model expects (temperature 1); gpt-oss-nano, a demonstration, takes the likeliest token. */
  sampling?: SamplingOptions
  signal?: AbortSignal
  /** On whose behalf: conversations of one owner share what has been computed of them, those of several nothing. */
  owner?: string
}

export interface SessionFileOptions {
  /** On whose behalf, as in `RespondOptions`. */
  owner?: string
  /** Told in bytes of the file. */
  onProgress?: (done: number, total: number) => void
  signal?: AbortSignal
}

/** A conversation that was saved. */
export interface RestoredSession {
  /** Its messages, instructions included: `respond` goes on with them. */
  messages: Message[]
  /** Tokens of it. */
  tokens: number
  /** Why they have to run again, if they do: the file is damaged, or was saved with another model or another precision. */
  refused?: string
}

/** A loaded model: text and messages in, typed events out. */
export class Model {
  readonly engine: Engine
  readonly tokenizer: Tokenizer

  constructor(engine: Engine, tokenizer: Tokenizer) {
    this.engine = engine
    this.tokenizer = tokenizer
  }

  get info(): EngineInfo {
    return this.engine.info
  }

  /** What a person should know before trusting this model, or waiting for it; undefined when there is nothing. */
  get notice(): string | undefined {
    const notices = [this.#isNano ? nanoNotice : undefined, this.info.notice]
    return notices.filter(notice => notice !== undefined).join('\n') || undefined
  }

  /** Where this model does best when nothing is said: the tiny one thinks little and takes no chances. */
  get defaults(): { reasoning: ReasoningEffort; temperature: number } {
    return this.#isNano ? { reasoning: 'low', temperature: 0 } : { reasoning: 'medium', temperature: 1 }
  }

  /**
   * One assistant turn. `input` is a question, or a conversation whose last message awaits an answer; without a system
   * message in it one is written from the options. Text of the answer comes as `final` events, reasoning as `analysis`.
   * The `end` event holds the turn's messages: append them to the conversation to go on.
   */
  async *respond(input: string | readonly Message[], options: RespondOptions = {}): AsyncGenerator<TurnEvent> {
    const { signal, owner = 'default', maxTokens } = options
    const messages = this.#conversation(input, options)
    const prompt = renderForCompletion(this.tokenizer, messages, 'assistant')
    const recipients = declaredTools(messages)
    const temperature = options.sampling?.temperature ?? this.defaults.temperature
    const sampling = { ...options.sampling, temperature }
    const request = { prompt, recipients, owner, maxTokens, sampling }
    for await (const event of runTurn(this.engine, this.tokenizer, request, { signal })) {
      yield event
      if (event.type === 'end' && event.messages.some(({ channel }) => channel === 'analysis')) {
        void this.#runAhead([...messages, ...event.messages], owner)
      }
    }
  }

  /**
   * Later prompts hold a finished turn without its thoughts: what is left of it is run once more while nothing else is asked
   * for, so that the next prompt has only its own to run.
   */
  async #runAhead(messages: readonly Message[], owner: string): Promise<void> {
    const last = messages.at(-1)
    if (last?.role !== 'assistant' || last.channel !== 'final') return
    const tokens = renderConversation(this.tokenizer, messages)
    if (tokens.length >= this.info.contextLength) return
    try {
      const request = { tokens, owner, maxTokens: 0, priority: 'droppable' } as const
      for await (const _ of this.engine.generate(request));
    } catch {
      // Nobody waits for it: whoever asks next hears what is wrong.
    }
  }

  /**
   * Shortens a conversation to what `respond` has room for with the same options: the oldest turns leave whole, a call
   * together with its result, until an answer of `reserve` tokens fits (by default maxTokens, at most 1,024 and a quarter
   * of the context). Throws RequestError, with both numbers, when its last turn alone does not fit.
   */
  fit(messages: readonly Message[], options: RespondOptions & { reserve?: number } = {}): Fitted {
    const { contextLength } = this.info
    const { maxTokens = Infinity, reserve = Math.min(maxTokens, 1024, Math.ceil(contextLength / 4)) } = options
    return fitToContext(messages, { limit: contextLength, reserve }, kept =>
      renderForCompletion(this.tokenizer, this.#conversation(kept, options), 'assistant'),
    )
  }

  /** Continues token ids: no format, no text. */
  async *generate(
    tokens: readonly number[],
    options: Omit<GenerateRequest, 'tokens'> & { signal?: AbortSignal } = {},
  ): AsyncGenerator<GenerateEvent> {
    const { signal, ...request } = options
    yield* this.engine.generate({ ...request, tokens }, { signal })
  }

  /**
   * Writes a conversation into a file, with what the model has computed of it, so that a later process need not compute it
   * again: some 25 KB a token for gpt-oss-20b. The options are those that `respond` was given. Anyone who can read the file
   * can read the conversation: only this user may. Throws RequestError or DeviceError where it cannot be written; until it
   * is whole the path is as it was.
   */
  async saveSession(
    path: string,
    input: string | readonly Message[],
    options: Instructions & SessionFileOptions = {},
  ): Promise<{ tokens: number; bytes: number }> {
    const { owner = 'default', signal, onProgress } = options
    const messages = this.#conversation(input, options)
    const tokens = renderConversation(this.tokenizer, messages)
    const request = { path, tokens, owner, note: JSON.stringify(messages) }
    const end = await endOf(this.engine.saveSession?.(request, { signal }), onProgress)
    return { tokens: end.tokens, bytes: end.bytes }
  }

  /**
   * Reads what `saveSession` wrote: `respond` with the messages and a question then runs no more than the question. Throws
   * RequestError where there is no such file or the conversation in it cannot be told. A file is believed: restore none that
   * others could have written.
   */
  async restoreSession(path: string, options: SessionFileOptions = {}): Promise<RestoredSession> {
    const { owner = 'default', signal, onProgress } = options
    const { tokens, note, refused } = await endOf(this.engine.restoreSession?.({ path, owner }, { signal }), onProgress)
    return { messages: messagesOf(path, note), tokens: tokens.length, ...(refused && { refused }) }
  }

  /** Frees weights, caches and the worker. Calls that still run reject with DeviceError. */
  close(): Promise<void> {
    return this.engine.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  get #isNano(): boolean {
    return this.info.model === 'gpt-oss-nano'
  }

  #conversation(input: string | readonly Message[], options: Instructions): Message[] {
    this.#requireText()
    const { reasoning = this.defaults.reasoning } = options
    return conversation(input, { ...options, reasoning })
  }

  #requireText(): void {
    const { vocabSize } = this.info
    if (vocabSize === this.tokenizer.vocabSize) return
    throw new RequestError(
      `this model has ${vocabSize} tokens and o200k_harmony ${this.tokenizer.vocabSize}: it cannot read text; use generate() with token ids`,
      { param: 'model' },
    )
  }
}

/** How saving or restoring ends. */
async function endOf<Event extends { type: string }>(
  events: AsyncIterable<Event | CopiedEvent> | undefined,
  onProgress?: (done: number, total: number) => void,
): Promise<Extract<Event, { type: 'end' }>> {
  if (!events) throw new RequestError('this engine has no files: sessions cannot be saved with it')
  for await (const event of events) {
    if (event.type === 'copied') onProgress?.((event as CopiedEvent).done, (event as CopiedEvent).total)
    if (event.type === 'end') return event as Extract<Event, { type: 'end' }>
  }
  throw new DeviceError('the engine stopped without a word: load the model again')
}

function messagesOf(path: string, note = ''): Message[] {
  try {
    const messages = JSON.parse(note)
    if (Array.isArray(messages)) return messages
  } catch {
    // no JSON
  }
  throw new RequestError(`${path} holds tokens and no conversation: restore it with the engine's restoreSession`, {
    param: 'path',
  })
}
