import { RequestError } from '../base/errors.ts'
import type { Engine, EngineInfo, GenerateEvent, GenerateRequest, SamplingOptions } from '../engine/engine.ts'
import { type Message, type ReasoningEffort, textOf, type ToolDescription } from '../harmony/message.ts'
import { renderForCompletion } from '../harmony/render.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import { runTurn, type TurnEvent } from './turn.ts'

export interface RespondOptions {
  /** How long the model may think. Default: medium. */
  reasoning?: ReasoningEffort
  /** Instructions that stand above the user's. */
  developer?: string
  /** Functions that the model may call. A call ends the turn; the caller runs it and responds again. */
  tools?: ToolDescription[]
  /** `YYYY-MM-DD`, told to the model. Default: today. */
  date?: string
  /** At most this many tokens, reasoning included. */
  maxTokens?: number
  sampling?: SamplingOptions
  signal?: AbortSignal
  /** Conversations that alternate stay fast when each has a name of its own. */
  session?: string
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

  /** What a person should know of this model before trusting it; undefined for the real ones. */
  get notice(): string | undefined {
    if (this.info.model !== 'gpt-oss-nano') return undefined
    return 'gpt-oss-nano is a tiny demonstration model: it shows the format, knows next to nothing and is not for real use.'
  }

  /**
   * One assistant turn. `input` is a question, or a conversation whose last message awaits an answer; without a system
   * message in it one is written from the options. Text of the answer comes as `final` events, reasoning as `analysis`.
   * The `end` event holds the turn's messages: append them to the conversation to go on.
   */
  async *respond(input: string | readonly Message[], options: RespondOptions = {}): AsyncGenerator<TurnEvent> {
    this.#requireText()
    const { signal, session = 'default', maxTokens, sampling, tools = [] } = options
    const messages = conversation(input, options)
    const prompt = renderForCompletion(this.tokenizer, messages, 'assistant')
    const recipients = tools.map(tool => `functions.${tool.name}`)
    yield* runTurn(this.engine, this.tokenizer, { prompt, recipients, session, maxTokens, sampling }, { signal })
  }

  /** Continues token ids: no format, no text. */
  async *generate(
    tokens: readonly number[],
    options: Omit<GenerateRequest, 'tokens'> & { signal?: AbortSignal } = {},
  ): AsyncGenerator<GenerateEvent> {
    const { signal, ...request } = options
    yield* this.engine.generate({ ...request, tokens }, { signal })
  }

  /** Frees weights, caches and the worker. Calls that still run reject with DeviceError. */
  close(): Promise<void> {
    return this.engine.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
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

/** The messages of a request, headed by what its options say. */
export function conversation(input: string | readonly Message[], options: RespondOptions = {}): Message[] {
  const given: readonly Message[] = typeof input === 'string' ? [{ role: 'user', content: input }] : input
  if (given.length === 0) throw new RequestError('the conversation is empty: give at least one message')
  const { reasoning = 'medium', developer, tools = [], date = today() } = options
  const messages: Message[] = []
  if (!given.some(message => message.role === 'system')) {
    messages.push(systemMessage({ reasoningEffort: reasoning, conversationStartDate: date }))
  }
  if (developer !== undefined || tools.length > 0) {
    const namespaces = tools.length > 0 ? [{ name: 'functions', tools }] : null
    messages.push({ role: 'developer', content: [{ type: 'developer', instructions: developer ?? null, tools: namespaces }] })
  }
  return [...messages, ...given]
}

function today(): string {
  const now = new Date()
  const two = (n: number) => String(n).padStart(2, '0')
  return `${now.getFullYear()}-${two(now.getMonth() + 1)}-${two(now.getDate())}`
}
