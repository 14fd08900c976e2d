/** How long of something must have been done before what is left can be told. */
const leastMs = 1000

/**
 * Tells how many seconds are left of what advances evenly, from what is done of a total; undefined while too little is.
 * Begins now.
 */
export function timeLeft(
  now: () => number = () => performance.now(),
): (done: number, total: number) => number | undefined {
  const begun = now()
  return (done, total) => {
    const elapsed = now() - begun
    return done > 0 && elapsed >= leastMs ? (elapsed * (total - done)) / done / 1000 : undefined
  }
}
