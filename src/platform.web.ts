import type { FromWorker, WorkerPort } from './engine/worker-protocol.ts'
import type { WorkerOptions } from './open-engine.ts'

/** Where a model's files lie: an address, relative to the page's. */
export function locateModel(name: string): string {
  const here = import.meta.url // a bundler would take `new URL` of a literal for a file to pack, and this is a folder
  if (name === 'nano' || name === 'gpt-oss-nano') return new URL('../models/nano', here).href
  return new URL(name, location.href).href
}

/** Starts the worker that will load and run the model at `path`. */
export function startWorker(data: WorkerOptions): WorkerPort {
  const worker = new Worker(new URL('./worker.web.js', import.meta.url), { type: 'module' })
  worker.postMessage(data)
  return {
    post: message => worker.postMessage(message),
    listen(onMessage, onDeath) {
      worker.onmessage = (event: MessageEvent<FromWorker>) => onMessage(event.data)
      // An event without a message: not its code failed, but there is none to run.
      worker.onerror = event => onDeath(event.message ?? 'its script, or one that it imports, could not be loaded')
      worker.onmessageerror = () => onDeath('a message could not be read')
    },
    hold: () => {},
    terminate: async () => worker.terminate(),
  }
}
