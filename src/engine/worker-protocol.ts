import { CheckpointError, DeviceError, RequestError } from '../base/errors.ts'
import type { EngineInfo, GenerateEvent, GenerateRequest } from './engine.ts'

/** To the worker. `stop` is one int32 of shared memory: a busy worker reads no messages, but it reads this. */
export interface ToWorker {
  type: 'generate'
  id: number
  request: GenerateRequest
  stop: SharedArrayBuffer
}

/** From the worker. */
export type FromWorker =
  | { type: 'loading'; done: number; total: number }
  | { type: 'ready'; info: EngineInfo }
  | { type: 'failed'; error: PlainError }
  | { type: 'event'; id: number; event: GenerateEvent }
  | { type: 'stopped'; id: number }
  | { type: 'error'; id: number; error: PlainError }

/** One side of the channel to a worker, Node's or a browser's. */
export interface WorkerPort {
  post(message: ToWorker): void
  /** Called with each message, and with an error once when the worker dies. */
  listen(onMessage: (message: FromWorker) => void, onDeath: (cause: unknown) => void): void
  /** Whether waiting for the worker keeps the process alive. */
  hold(alive: boolean): void
  terminate(): Promise<void>
}

/** An error as data: classes do not survive the channel. */
export interface PlainError {
  name: string
  message: string
  status?: number
  param?: string
  stack?: string
}

export function toPlain(error: unknown): PlainError {
  if (!(error instanceof Error)) return { name: 'Error', message: String(error) }
  const { name, message, stack } = error
  if (error instanceof RequestError) return { name, message, stack, status: error.status, param: error.param }
  return { name, message, stack }
}

/** The error again, of its own class; what has no class of ours is the device's failure. */
export function fromPlain({ name, message, status, param, stack }: PlainError): Error {
  if (name === 'RequestError') return new RequestError(message, { status, param })
  if (name === 'CheckpointError') return new CheckpointError(message)
  if (name === 'DeviceError') return new DeviceError(message)
  return new DeviceError(`the engine failed: ${name}: ${message}`, { cause: stack })
}
