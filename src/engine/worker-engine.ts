import { AsyncQueue } from '../base/async-queue.ts'
import { DeviceError } from '../base/errors.ts'
import type { Engine, EngineInfo, GenerateEvent, GenerateRequest } from './engine.ts'
import { type FromWorker, fromPlain, type WorkerPort } from './worker-protocol.ts'

/** An engine that runs in a worker, so that a busy model never stalls this thread. */
export class WorkerEngine implements Engine {
  readonly info: EngineInfo
  readonly #port: WorkerPort
  readonly #calls = new Map<number, { queue: AsyncQueue<GenerateEvent>; stop: Int32Array }>()
  #nextId = 0
  #dead: DeviceError | undefined

  /** Waits until the worker has loaded its model; rejects with what kept it from doing so. */
  static async start(port: WorkerPort, onLoading?: (done: number, total: number) => void): Promise<WorkerEngine> {
    const { promise, resolve, reject } = Promise.withResolvers<WorkerEngine>()
    let engine: WorkerEngine | undefined
    port.listen(
      message => {
        if (message.type === 'loading') onLoading?.(message.done, message.total)
        else if (message.type === 'ready') resolve((engine = new WorkerEngine(port, message.info)))
        else if (message.type === 'failed') reject(fromPlain(message.error))
        else engine?.#receive(message)
      },
      cause => {
        const error = new DeviceError(`the worker that runs the model died: ${cause}; load the model again`, { cause })
        reject(error)
        engine?.#die(error)
      },
    )
    try {
      return await promise
    } catch (error) {
      await port.terminate()
      throw error
    } finally {
      port.hold(false)
    }
  }

  private constructor(port: WorkerPort, info: EngineInfo) {
    this.#port = port
    this.info = info
  }

  async *generate(request: GenerateRequest, { signal }: { signal?: AbortSignal } = {}): AsyncGenerator<GenerateEvent> {
    signal?.throwIfAborted()
    if (this.#dead) throw this.#dead
    const id = this.#nextId++
    const shared = new SharedArrayBuffer(4)
    const stop = new Int32Array(shared)
    const queue = new AsyncQueue<GenerateEvent>()
    const onAbort = () => void Atomics.store(stop, 0, 1)
    signal?.addEventListener('abort', onAbort)
    this.#calls.set(id, { queue, stop })
    this.#port.hold(true)
    try {
      this.#port.post({ type: 'generate', id, request, stop: shared })
      for (;;) {
        const { done, value } = await queue.next()
        if (done) throw signal?.reason // the worker has stopped
        yield value
        if (value.type === 'end') return
      }
    } finally {
      onAbort()
      signal?.removeEventListener('abort', onAbort)
      this.#calls.delete(id)
      if (this.#calls.size === 0) this.#port.hold(false)
    }
  }

  #receive(message: FromWorker): void {
    if (message.type === 'event') this.#calls.get(message.id)?.queue.push(message.event)
    else if (message.type === 'stopped') this.#calls.get(message.id)?.queue.end()
    else if (message.type === 'error') this.#calls.get(message.id)?.queue.end(fromPlain(message.error))
  }

  #die(error: DeviceError): void {
    this.#dead ??= error
    for (const { queue } of this.#calls.values()) queue.end(this.#dead)
  }

  /** Ends the worker; memory is free when this resolves. */
  async close(): Promise<void> {
    this.#die(new DeviceError('the model was closed: load it again'))
    await this.#port.terminate()
  }
}
