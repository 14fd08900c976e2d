import { seededRandom } from '../base/random.ts'
import type { Engine } from '../engine/engine.ts'

/** A closed loop: every user asks, reads the whole answer, and asks again. */
export interface Load {
  users: number
  /** Means; every request draws its own from half to one and a half. */
  promptTokens: number
  answerTokens: number
  seconds: number
}

/** What the users got. Times in milliseconds, [median, p99]; undefined where nothing came. */
export interface Served {
  users: number
  /** Answers that were whole. */
  requests: number
  /** Generated tokens a second, of all users together. */
  tokensPerSecond: number
  /** From asking to the first token. */
  firstToken?: readonly [number, number]
  /** From a token to the next. */
  gap?: readonly [number, number]
}

/** Puts a load on an engine. Rejects with the signal's reason, or with what a request rejects with. */
export async function serve(engine: Engine, load: Load, signal: AbortSignal): Promise<Served> {
  const random = seededRandom(load.users)
  const around = (mean: number) => Math.max(1, Math.round(mean * (0.5 + random())))
  const ended = new AbortController()
  const until = AbortSignal.any([signal, ended.signal])
  const timer = setTimeout(() => ended.abort(), 1000 * load.seconds)
  const firsts: number[] = []
  const gaps: number[] = []
  let [requests, numTokens] = [0, 0]
  const begun = performance.now()

  async function user(owner: string): Promise<void> {
    for (;;) {
      const tokens = Array.from({ length: around(load.promptTokens) }, () =>
        Math.floor(random() * engine.info.vocabSize),
      )
      const request = { tokens, maxTokens: around(load.answerTokens), stopTokens: [], owner }
      const asked = performance.now()
      let last: number | undefined
      for await (const event of engine.generate(request, { signal: until })) {
        if (event.type !== 'token') continue
        const now = performance.now()
        if (last === undefined) firsts.push(now - asked)
        else gaps.push(now - last)
        last = now
        numTokens++
      }
      requests++
    }
  }

  try {
    await Promise.all(Array.from({ length: load.users }, (_, n) => user(`user ${n}`)))
  } catch (error) {
    signal.throwIfAborted()
    if (error !== ended.signal.reason) throw error
  } finally {
    clearTimeout(timer)
    ended.abort()
  }
  const seconds = (performance.now() - begun) / 1000
  const { users } = load
  return { users, requests, tokensPerSecond: numTokens / seconds, firstToken: ends(firsts), gap: ends(gaps) }
}

const head = 'users  tokens/s                           first token       p99   between       p99   answers'

/** A line for each number of users: what all of them got together, drawn to scale, and what one of them waited. */
export function table(rows: readonly Served[]): string {
  const most = Math.max(...rows.map(row => row.tokensPerSecond))
  const lines = rows.map(({ users, requests, tokensPerSecond, firstToken, gap }) => {
    const bar = '█'.repeat(Math.round((24 * tokensPerSecond) / most)).padEnd(24)
    const speed = tokensPerSecond.toPrecision(3).padStart(9)
    return `${String(users).padStart(5)} ${speed} ${bar} ${times(firstToken)} ${times(gap)} ${String(requests).padStart(9)}`
  })
  return [head, ...lines].join('\n')
}

function times(ends?: readonly [number, number]): string {
  return (ends ? ends.map(showMs) : ['–', '–']).map(text => text.padStart(9)).join(' ')
}

const showMs = (ms: number) => (ms < 1000 ? `${ms.toPrecision(3)} ms` : `${(ms / 1000).toPrecision(3)} s`)

function ends(numbers: readonly number[]): readonly [number, number] | undefined {
  if (numbers.length === 0) return undefined
  const sorted = numbers.toSorted((a, b) => a - b)
  return [sorted[sorted.length >> 1], sorted[Math.floor(0.99 * (sorted.length - 1))]]
}
