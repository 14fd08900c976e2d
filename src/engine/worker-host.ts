import type { LocalEngine } from './local-engine.ts'
import { type FromWorker, type ToWorker, toPlain } from './worker-protocol.ts'

/** Serves an engine inside a worker. Returns what to call with each message that arrives. */
export function hostEngine(
  engine: Pick<LocalEngine, 'run'>,
  post: (message: FromWorker) => void,
): (message: ToWorker) => Promise<void> {
  return async ({ id, request, stop }) => {
    const flag = new Int32Array(stop)
    const shouldStop = () => Atomics.load(flag, 0) !== 0
    try {
      await engine.run(request, event => post({ type: 'event', id, event }), shouldStop)
    } catch (error) {
      post({ type: 'error', id, error: toPlain(error) })
    }
  }
}
