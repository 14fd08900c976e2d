import { CheckpointError, DeviceError, HarmonyError, RequestError } from '../base/errors.ts'
import type {
  EngineInfo,
  GenerateEvent,
  GenerateRequest,
  RestoreEvent,
  RestoreRequest,
  SaveEvent,
  SaveRequest,
} from './engine.ts'

/** To the worker, which reads its messages between two layers at least. */
export type ToWorker =
  | { type: 'generate'; id: number; request: GenerateRequest }
  | { type: 'save'; id: number; request: SaveRequest }
  | { type: 'restore'; id: number; request: RestoreRequest }
  /** Nobody reads the events of this call any more. */
  | { type: 'stop'; id: number }

/** From the worker. A call that was stopped is not answered any more. */
export type FromWorker =
  | { type: 'loading'; done: number; total: number }
  | { type: 'ready'; info: EngineInfo }
  | { type: 'failed'; error: PlainError }
  | { type: 'event'; id: number; event: GenerateEvent | SaveEvent | RestoreEvent }
  | { type: 'error'; id: number; error: PlainError }

/** One side of the channel to a worker, Node's or a browser's. */
export interface WorkerPort {
  post(message: ToWorker): void
  /** Called with each message, and with an error when the worker dies. */
  listen(onMessage: (message: FromWorker) => void, onDeath: (cause: unknown) => void): void
  /** Whether waiting for the worker keeps the process alive. */
  hold(alive: boolean): void
  terminate(): Promise<void>
}

/** An error as data: classes do not survive the channel. */
export interface PlainError {
  name: string
  message: string
  stack?: string
  status?: number
  param?: string
  retryAfterMs?: number
  tokens?: readonly number[]
}

export function toPlain(error: unknown): PlainError {
  if (!(error instanceof Error)) return { name: 'Error', message: String(error) }
  const { name, message, stack } = error
  if (error instanceof RequestError) {
    const { status, param, retryAfterMs } = error
    return { name, message, stack, status, param, retryAfterMs }
  }
  if (error instanceof HarmonyError) return { name, message, stack, tokens: error.tokens }
  return { name, message, stack }
}

/** The error again, of its own class, with the worker's stack as its cause; what is none of ours is the device's failure. */
export function fromPlain({ name, message, stack: cause, status, param, retryAfterMs, tokens }: PlainError): Error {
  if (name === 'RequestError') return new RequestError(message, { status, param, retryAfterMs, cause })
  if (name === 'HarmonyError') return new HarmonyError(message, { tokens, cause })
  if (name === 'CheckpointError') return new CheckpointError(message, { cause })
  if (name === 'DeviceError') return new DeviceError(message, { cause })
  return new DeviceError(`the engine failed: ${name}: ${message}`, { cause })
}
