import { AsyncQueue } from '../base/async-queue.ts'

/**
 * What a caller of the engine iterates, up to an event of type `end`. `start` begins the work, which pushes its events into
 * the queue and ends it, and gives what tells it to stop. It is stopped when the signal fires, which also rejects at once
 * with the signal's reason, when the caller leaves the iteration, and, idly, at the end.
 */
export async function* eventStream<Event extends { type: string }>(
  start: (queue: AsyncQueue<Event>) => () => void,
  signal?: AbortSignal,
): AsyncGenerator<Event, void, undefined> {
  signal?.throwIfAborted()
  const queue = new AsyncQueue<Event>()
  const stop = start(queue)
  const onAbort = () => {
    stop()
    queue.fail(signal?.reason)
  }
  signal?.addEventListener('abort', onAbort)
  try {
    for (;;) {
      const { done, value } = await queue.next()
      signal?.throwIfAborted() // what was pushed before is of no more use
      if (done) return
      yield value
      if (value.type === 'end') return
    }
  } finally {
    signal?.removeEventListener('abort', onAbort)
    stop()
  }
}
