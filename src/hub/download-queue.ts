/**
 * Takes files in turn: the next one begins when all of the one before `hasCome`, so that one is hashed while another one
 * is on its way, and never more than these two. The first error stops both; it is thrown when they have ended.
 */
export async function takeInTurn<T>(
  files: Iterable<T>,
  take: (file: T, signal: AbortSignal, hasCome: () => void) => Promise<void>,
  signal?: AbortSignal,
): Promise<void> {
  const failed = new AbortController()
  const stop = signal ? AbortSignal.any([signal, failed.signal]) : failed.signal
  let before: Promise<void> | undefined
  for (const file of files) {
    const come = Promise.withResolvers<void>()
    const taken = take(file, stop, come.resolve)
      .catch(error => failed.abort(error))
      .finally(come.resolve)
    await before
    await come.promise
    before = taken
    if (stop.aborted) break
  }
  await before
  stop.throwIfAborted()
}
