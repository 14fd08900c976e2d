/** Asked now and then during a forward pass; true ends it there. May wait before it answers. */
export type ShouldStop = () => boolean | Promise<boolean>

/** How often that is, where the whole pass is in the device's hands. */
const askEveryMs = 20

/** What `work` gives, or undefined as soon as `shouldStop` says so: what becomes of the work then matters to nobody. */
export async function unlessStopped<T>(work: Promise<T>, shouldStop: ShouldStop): Promise<T | undefined> {
  const { promise: stopped, resolve: stop, reject: fail } = Promise.withResolvers<undefined>()
  let timer = setTimeout(ask, askEveryMs)
  let isOver = false
  async function ask() {
    try {
      if (await shouldStop()) stop(undefined)
      else if (!isOver) timer = setTimeout(ask, askEveryMs)
    } catch (error) {
      fail(error)
    }
  }
  try {
    return await Promise.race([work, stopped])
  } finally {
    isOver = true
    clearTimeout(timer)
  }
}
