import { parentPort, workerData } from 'node:worker_threads'
import { openFolder } from '#source'
import { cacheFolder } from './base/cache-folder.node.ts'
import { createSealed, openSealed } from './base/sealed-file.node.ts'
import { openDevice } from './device/open.node.ts'
import { hostEngine } from './engine/worker-host.ts'
import { type FromWorker, type ToWorker, toPlain } from './engine/worker-protocol.ts'
import { identityOf } from './hub/identity.ts'
import { openChecked } from './hub/records-load.ts'
import { openEngine, type WorkerOptions } from './open-engine.ts'
import { availableMemory } from './platform.node.ts'

/** The thread that runs a model. */
const port = parentPort!
const post = (message: FromWorker) => port.postMessage(message)
const { path, contextLength, maxSessions, ...options } = workerData as WorkerOptions
try {
  const engine = await openEngine({
    folder: await openFolder(path),
    open: (folder, converting) => openChecked(folder, { folder: cacheFolder(), ...converting }),
    ...openDevice(options),
    contextLength,
    maxSessions,
    availableMemory: availableMemory(),
    sessionFiles: async (checkpoint, config) => ({
      weights: await identityOf(checkpoint, config, cacheFolder()),
      create: createSealed,
      open: openSealed,
    }),
    onProgress: (done, total) => post({ type: 'loading', done, total }),
  })
  const receive = hostEngine(engine, post)
  port.on('message', (message: ToWorker) => void receive(message))
  post({ type: 'ready', info: engine.info })
} catch (error) {
  post({ type: 'failed', error: toPlain(error) })
}
