import type { Job } from './job.ts'
import type { LocalEngine } from './local-engine.ts'
import { type FromWorker, type ToWorker, toPlain } from './worker-protocol.ts'

/** Serves an engine inside a worker. Returns what to call with each message that arrives. */
export function hostEngine(
  engine: Pick<LocalEngine, 'submit' | 'cancel'>,
  post: (message: FromWorker) => void,
): (message: ToWorker) => void {
  const jobs = new Map<number, Job>()
  return message => {
    const { id } = message
    if (message.type === 'stop') {
      const job = jobs.get(id)
      if (job) engine.cancel(job)
      return
    }
    const fail = (error: unknown) => post({ type: 'error', id, error: toPlain(error) })
    try {
      const job = engine.submit(message.request, event => post({ type: 'event', id, event }))
      jobs.set(id, job)
      void job.done.catch(fail).then(() => jobs.delete(id))
    } catch (error) {
      fail(error)
    }
  }
}
