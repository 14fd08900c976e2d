/** The time as a scheduler knows it: a test gives one of its own, and every run of a seed is the same. */
export interface Clock {
  /** Milliseconds since some moment. */
  now(): number
  /** Resolves after so many milliseconds; `cancel` resolves it at once. */
  sleep(ms: number): { over: Promise<void>; cancel: () => void }
  /** Called between layers: lets what waits in this thread happen, now and then. */
  turn(): Promise<void> | undefined
}

/** An engine lets its thread's other work run at least this often, but for the time that a layer takes. */
const turnEveryMs = 10

/** The clock on the wall. */
export function systemClock(): Clock {
  let turned = performance.now()
  return {
    now: () => performance.now(),
    sleep(ms) {
      const { promise: over, resolve } = Promise.withResolvers<void>()
      const timer = setTimeout(resolve, ms)
      const cancel = () => {
        clearTimeout(timer)
        resolve()
      }
      return { over, cancel }
    },
    turn() {
      if (performance.now() - turned < turnEveryMs) return undefined
      return turnOfEvents().then(() => void (turned = performance.now()))
    },
  }
}

/** What Node and browsers share of a channel's ends. */
interface Port {
  onmessage: () => void
  postMessage(message: unknown): void
  close(): void
}

/** One turn of the event loop. A timer would wait a millisecond or four. */
function turnOfEvents(): Promise<void> {
  return new Promise(resolve => {
    const { port1, port2 } = new MessageChannel() as unknown as { port1: Port; port2: Port }
    port1.onmessage = () => {
      port1.close()
      resolve()
    }
    port2.postMessage(0)
  })
}
