import type { FromWorker, WorkerPort } from './engine/worker-protocol.ts'

/** Where a model's files lie: an address, relative to the page's. */
export function locateModel(name: string): string {
  if (name === 'nano' || name === 'gpt-oss-nano') return new URL('../models/nano', import.meta.url).href
  return new URL(name, location.href).href
}

/** Starts the worker that will load and run the model at `path`. */
export function startWorker(data: { path: string; contextLength?: number }): WorkerPort {
  const worker = new Worker(new URL('./worker.web.js', import.meta.url), { type: 'module' })
  worker.postMessage(data)
  return {
    post: message => worker.postMessage(message),
    listen(onMessage, onDeath) {
      worker.onmessage = (event: MessageEvent<FromWorker>) => onMessage(event.data)
      worker.onerror = event => onDeath(event.message)
      worker.onmessageerror = () => onDeath('a message could not be read')
    },
    hold: () => {},
    terminate: async () => worker.terminate(),
  }
}
