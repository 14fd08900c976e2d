/**
 * What everything above the engine knows of it: token ids in, events out. A model in this thread, one in a worker and a
 * remote server all look like this. Requests may come at any time, and run together.
 */
export interface Engine {
  readonly info: EngineInfo
  /**
   * Continues a prompt. Ends with one `end` event, or rejects: with `signal.reason` when cancelled (also in the middle
   * of a prefill; what was run is kept), RequestError for what cannot be asked or waited too long, DeviceError
   * when the device fails. Leaving the iteration early cancels.
   */
  generate(request: GenerateRequest, options?: { signal?: AbortSignal }): AsyncIterable<GenerateEvent>
  /**
   * Writes what the model has computed of some tokens into a file, after running what is missing, so that `restoreSession`
   * holds it again, also in another process. Ends with one `end` event; until then the path is as it was. Rejects as
   * `generate` does, and with RequestError or DeviceError where nothing can be written. Only where the engine has files.
   */
  saveSession?(request: SaveRequest, options?: { signal?: AbortSignal }): AsyncIterable<SaveEvent>
  /**
   * Reads such a file, for later prompts of an owner that begin with its tokens. Ends with one `end` event, or rejects with
   * RequestError where there is no such file, or one whose tokens cannot be told or do not fit this model.
   */
  restoreSession?(request: RestoreRequest, options?: { signal?: AbortSignal }): AsyncIterable<RestoreEvent>
  /** Frees weights, caches and the worker. What still runs rejects with DeviceError. */
  close(): Promise<void>
}

export interface EngineInfo {
  /** What the model is called: `gpt-oss-20b`, `gpt-oss-120b`, `gpt-oss-nano`, or `gpt-oss` for other sizes. */
  model: string
  /** Name of the device that computes: `reference`, … */
  device: string
  vocabSize: number
  /** Tokens that prompt and answer may have together. */
  contextLength: number
  /** Bytes that were planned: the process's own once the context is full, and weights used where their files are mapped. */
  memory?: { private: number; mapped: number }
  /** Why the model runs slower than it could here, if it does. */
  notice?: string
  /** Where matrices that were rounded to 8 bits come from or go to, or why they are not kept, for a model of some size. */
  kept?: string
}

export interface GenerateRequest {
  /** The prompt, at least one token. */
  tokens: readonly number[]
  /** At most this many tokens are generated, none with 0: the prompt is run for later. By default as many as the context holds. */
  maxTokens?: number
  /** Generation ends after one of these; default: return, call and end of text. */
  stopTokens?: readonly number[]
  sampling?: SamplingOptions
  /** Restricts the tokens that may be generated. */
  mask?: MaskSpec
  /**
   * How many tokens stay, of prompt and answer, where the caller means to come back with others: a later request of the
   * owner that shares so many runs none of them again. The last few are kept.
   */
  marks?: readonly number[]
  /**
   * On whose behalf. Prompts of one owner that begin alike share what has been computed of them, one after the other or at
   * once; nothing is shared between owners, and places are dealt out among them. Without one nothing is kept.
   */
  owner?: string
  /**
   * `background`: what nobody waits for runs while nothing else does. `droppable`: besides, it ends as soon as anything
   * else is asked for, and no process waits for it. Default `interactive`.
   */
  priority?: 'interactive' | 'background' | 'droppable'
  /** Milliseconds after which nobody wants the answer any more: the request then rejects with RequestError (504). */
  deadlineMs?: number
}

/** What to save: the prompt of which these are the options in `GenerateRequest`. */
export interface SaveRequest extends Pick<GenerateRequest, 'tokens' | 'marks' | 'owner' | 'priority' | 'deadlineMs'> {
  /** Where the file will lie, in the engine's file system. It holds what its owner said and heard. */
  path: string
  /** Whatever is to come back with the tokens, such as the conversation that they are. */
  note?: string
}

export interface RestoreRequest {
  path: string
  /** On whose behalf: as in `GenerateRequest`. */
  owner: string
}

/** `done` of `total` bytes have been written or read. */
export type CopiedEvent = { type: 'copied'; done: number; total: number }

export type SaveEvent =
  | Exclude<GenerateEvent, { type: 'token' | 'end' }>
  | CopiedEvent
  | { type: 'end'; tokens: number; bytes: number }

export type RestoreEvent =
  | CopiedEvent
  /**
   * The tokens that were saved. Where `refused` says why keys and values could not be used, they are as good as any others:
   * who sends them has them run.
   */
  | { type: 'end'; tokens: readonly number[]; note?: string; refused?: string }

export type GenerateEvent =
  /** It waits, behind so many others and probably for so long; told again when one of them has begun. */
  | { type: 'queued'; ahead: number; waitMs?: number }
  /** `done` of the `total` prompt tokens that had to be run are run; `cached` were reused. */
  | { type: 'prefill'; cached: number; done: number; total: number }
  | ({ type: 'token' } & SampledToken)
  | { type: 'end'; reason: EndReason; usage: Usage }

/**
 * `stop`: a stop token was sampled (it came as a token event); `length`: maxTokens or the end of the context; `dropped`: a
 * droppable request made way for another.
 */
export type EndReason = 'stop' | 'length' | 'dropped'

export interface Usage {
  promptTokens: number
  /** Prompt tokens whose caches were reused. */
  cachedTokens: number
  completionTokens: number
}

export interface SampledToken {
  token: number
  /** Natural logarithm of the token's probability under the model's own distribution, before any option changes it. */
  logprob?: number
  /** The likeliest tokens under the same distribution, falling. */
  topLogprobs?: { token: number; logprob: number }[]
}

/**
 * Applied in this order: penalties, bias, mask, temperature, top-k, top-p, min-p. With the defaults a token is drawn
 * from the model's own distribution.
 */
export interface SamplingOptions {
  /** 0 takes the likeliest token, ties to the lowest id. Default 1. */
  temperature?: number
  /** Only the k likeliest tokens; 0 for all. Default 0. */
  topK?: number
  /** Only the likeliest tokens that together reach this probability. Default 1. */
  topP?: number
  /** Only tokens at least this fraction as likely as the likeliest. Default 0. */
  minP?: number
  /** Subtracted from a token's logit for each time that it was generated. Default 0. */
  frequencyPenalty?: number
  /** Subtracted once from the logit of a token that was generated. Default 0. */
  presencePenalty?: number
  /** Logits of generated tokens are divided (positive) or multiplied (negative) by it. Default 1. */
  repetitionPenalty?: number
  /** Added to the logits of these ids; −Infinity forbids. */
  logitBias?: Readonly<Record<number, number>>
  /**
   * Same seed, same tokens: on the reference device whatever the batch, the chunks and the reuse; on faster devices for
   * a lone session with equal calls. By default another one each time.
   */
  seed?: number
  /** Report log-probabilities, and this many alternatives for each token (0: the token's own alone). */
  logprobs?: number
}

/** A mask as plain data: the engine builds the object that walks along with the tokens where it runs. */
export type MaskSpec = { type: 'tokens'; allowed: readonly number[] }
