import type { LocalEngine } from './local-engine.ts'
import { type FromWorker, type ToWorker, toPlain } from './worker-protocol.ts'

type HostedEngine = Pick<LocalEngine, 'submit' | 'cancel' | 'saveSession' | 'restoreSession'>
type Call = Exclude<ToWorker, { type: 'stop' }>

/** Serves an engine inside a worker. Returns what to call with each message that arrives. */
export function hostEngine(engine: HostedEngine, post: (message: FromWorker) => void): (message: ToWorker) => void {
  /** What stops the calls that are open. */
  const stops = new Map<number, () => void>()
  return message => {
    const { id } = message
    if (message.type === 'stop') return stops.get(id)?.()
    const fail = (error: unknown) => post({ type: 'error', id, error: toPlain(error) })
    try {
      const { stop, done } = begin(engine, message, event => post({ type: 'event', id, event }))
      stops.set(id, stop)
      void done.catch(fail).then(() => stops.delete(id))
    } catch (error) {
      fail(error)
    }
  }
}

type Emit = (event: Extract<FromWorker, { type: 'event' }>['event']) => void

function begin(engine: HostedEngine, call: Call, emit: Emit): { stop: () => void; done: Promise<void> } {
  if (call.type === 'generate') {
    const job = engine.submit(call.request, emit)
    return { stop: () => engine.cancel(job), done: job.done }
  }
  const controller = new AbortController()
  const { signal } = controller
  const events =
    call.type === 'save'
      ? engine.saveSession(call.request, { signal })
      : engine.restoreSession(call.request, { signal })
  const passOn = async () => {
    for await (const event of events) emit(event)
  }
  return { stop: () => controller.abort(), done: passOn() }
}
