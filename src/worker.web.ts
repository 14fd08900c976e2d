import { openFolder } from './checkpoint/source.web.ts' // by its path: an import map does not reach into a worker
import { openDevice } from './device/open.web.ts'
import { hostEngine } from './engine/worker-host.ts'
import { type FromWorker, type ToWorker, toPlain } from './engine/worker-protocol.ts'
import { openEngine, type WorkerOptions } from './open-engine.ts'

/** Browsers do not tell how much memory is free: an allocation that fails is an error of its own. */
const availableMemory = 4 * 2 ** 30
const post = (message: FromWorker) => postMessage(message)

/** The worker that runs a model. The first message says which. */
addEventListener(
  'message',
  async (first: MessageEvent<WorkerOptions>) => {
    try {
      const { path, contextLength, maxSessions, ...options } = first.data
      const engine = await openEngine({
        folder: await openFolder(path),
        ...openDevice(options),
        contextLength,
        maxSessions,
        availableMemory,
        onProgress: (done, total) => post({ type: 'loading', done, total }),
      })
      const receive = hostEngine(engine, post)
      addEventListener('message', (event: MessageEvent<ToWorker>) => void receive(event.data))
      post({ type: 'ready', info: engine.info })
    } catch (error) {
      post({ type: 'failed', error: toPlain(error) })
    }
  },
  { once: true },
)
