import type { AsyncQueue } from '../base/async-queue.ts'
import { DeviceError, RequestError } from '../base/errors.ts'
import type {
  Engine,
  EngineInfo,
  GenerateEvent,
  GenerateRequest,
  RestoreEvent,
  RestoreRequest,
  SaveEvent,
  SaveRequest,
} from './engine.ts'
import { eventStream } from './event-stream.ts'
import { checkRequest } from './request.ts'
import { type FromWorker, fromPlain, type ToWorker, type WorkerPort } from './worker-protocol.ts'

type AnyEvent = GenerateEvent | SaveEvent | RestoreEvent
type Call =
  | { type: 'generate'; request: GenerateRequest }
  | { type: 'save'; request: SaveRequest }
  | { type: 'restore'; request: RestoreRequest }

/** An engine that runs in a worker, so that a busy model never stalls this thread. */
export class WorkerEngine implements Engine {
  readonly info: EngineInfo
  readonly #port: WorkerPort
  readonly #calls = new Map<number, AsyncQueue<AnyEvent>>()
  /** Of these somebody waits for the answer: they keep the process alive. */
  readonly #awaited = new Set<number>()
  #nextId = 0
  #dead: DeviceError | undefined

  /**
   * Waits until the worker has loaded its model; rejects with what kept it from doing so, or with `signal.reason`, and ends
   * the worker then.
   */
  static async start(
    port: WorkerPort,
    onLoading?: (done: number, total: number) => void,
    signal?: AbortSignal,
  ): Promise<WorkerEngine> {
    const { promise, resolve, reject } = Promise.withResolvers<WorkerEngine>()
    let engine: WorkerEngine | undefined
    const onMessage = (message: FromWorker) => {
      if (message.type === 'loading') onLoading?.(message.done, message.total)
      else if (message.type === 'failed') reject(fromPlain(message.error))
      else if (message.type === 'ready') resolve((engine = new WorkerEngine(port, message.info)))
      else engine!.#receive(message)
    }
    const onDeath = (cause: unknown) => {
      const error = new DeviceError(`the worker that runs the model died (${cause}): load the model again`, { cause })
      reject(error)
      if (engine) engine.#die(error)
      void port.terminate() // it may only have become unintelligible
    }
    const onAbort = () => reject(signal!.reason)
    port.listen(onMessage, onDeath)
    signal?.addEventListener('abort', onAbort)
    if (signal?.aborted) onAbort()
    try {
      return await promise
    } catch (error) {
      await port.terminate()
      throw error
    } finally {
      signal?.removeEventListener('abort', onAbort)
      port.hold(false)
    }
  }

  private constructor(port: WorkerPort, info: EngineInfo) {
    this.#port = port
    this.info = info
  }

  generate(request: GenerateRequest, { signal }: { signal?: AbortSignal } = {}): AsyncGenerator<GenerateEvent> {
    return this.#call({ type: 'generate', request }, signal) as AsyncGenerator<GenerateEvent>
  }

  saveSession(request: SaveRequest, { signal }: { signal?: AbortSignal } = {}): AsyncGenerator<SaveEvent> {
    return this.#call({ type: 'save', request }, signal) as AsyncGenerator<SaveEvent>
  }

  restoreSession(request: RestoreRequest, { signal }: { signal?: AbortSignal } = {}): AsyncGenerator<RestoreEvent> {
    return this.#call({ type: 'restore', request }, signal) as AsyncGenerator<RestoreEvent>
  }

  #call(call: Call, signal?: AbortSignal): AsyncGenerator<AnyEvent> {
    const isDroppable = call.type === 'generate' && call.request.priority === 'droppable'
    return eventStream<AnyEvent>(queue => {
      if (this.#dead) throw this.#dead
      if (call.type === 'generate') checkRequest(call.request, this.info)
      const id = this.#nextId++
      post(this.#port, { ...call, id })
      this.#calls.set(id, queue)
      if (!isDroppable) this.#awaited.add(id)
      this.#port.hold(this.#awaited.size > 0)
      return () => {
        if (this.#forget(id)) this.#port.post({ type: 'stop', id })
      }
    }, signal)
  }

  #receive(message: Extract<FromWorker, { id: number }>): void {
    const queue = this.#calls.get(message.id)
    if (!queue) return // the caller has left
    if (message.type === 'error') queue.fail(fromPlain(message.error))
    else queue.push(message.event)
    // The call is over when its end arrives, not when somebody reads it: an unread answer must not hold the process.
    if (message.type === 'error' || message.event.type === 'end') this.#forget(message.id)
  }

  /** Whether the call was still open. */
  #forget(id: number): boolean {
    if (this.#awaited.delete(id) && this.#awaited.size === 0) this.#port.hold(false)
    return this.#calls.delete(id)
  }

  #die(error: DeviceError): void {
    this.#dead ??= error
    for (const [id, queue] of this.#calls) {
      queue.fail(this.#dead)
      this.#forget(id)
    }
  }

  /** Ends the worker; its memory is free when this resolves. */
  async close(): Promise<void> {
    this.#die(new DeviceError('the model was closed: load it again'))
    await this.#port.terminate()
  }
}

function post(port: WorkerPort, message: ToWorker): void {
  try {
    port.post(message)
  } catch (cause) {
    throw new RequestError(`the request is not plain data: ${cause instanceof Error ? cause.message : cause}`, {
      cause,
    })
  }
}
