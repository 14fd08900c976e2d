/**
 * Four error classes, named by who must act. A message says the fact, the numbers and the cure.
 */

/** The files of a model are damaged, incomplete, or not gpt-oss: whoever supplied the files must act. */
export class CheckpointError extends Error {
  override name = 'CheckpointError'
}

/** The machine cannot do it, or stopped doing it: memory, worker, accelerator. */
export class DeviceError extends Error {
  override name = 'DeviceError'
}

/**
 * The caller asked for something that cannot be done. `status` and `param` are those of the HTTP API; `retryAfterMs`: when
 * it may be worth asking again, if that is known.
 */
export class RequestError extends Error {
  override name = 'RequestError'
  readonly status: number
  readonly param: string | undefined
  readonly retryAfterMs: number | undefined
  constructor(
    message: string,
    options: { status?: number; param?: string; retryAfterMs?: number; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause })
    this.status = options.status ?? 400
    this.param = options.param
    this.retryAfterMs = options.retryAfterMs
  }
}

/** Tokens or messages that Harmony does not allow; only strict mode and the renderer throw it. */
export class HarmonyError extends Error {
  override name = 'HarmonyError'
  /** The token ids concerned, where the error is about tokens. */
  readonly tokens: readonly number[]
  constructor(message: string, options: { tokens?: readonly number[]; cause?: unknown } = {}) {
    super(message, { cause: options.cause })
    this.tokens = options.tokens ?? []
  }
}
