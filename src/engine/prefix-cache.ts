import { commonPrefix, type Session } from './session.ts'

/** A session to run a prompt in. */
export interface Found {
  session: Session
  /** It was idle and is so no longer; otherwise it is a fork. */
  isTaken: boolean
  /** Where the prompt parts from another timeline and nothing was kept: others will part there too, so it is worth a mark. */
  fork?: number
}

/** How much of a prompt a timeline can spare. */
interface Match {
  session: Session
  common: number
  spared: number
  /** Tokens that run again for it, because nothing was kept where the timelines part. */
  cost: number
}

/**
 * Timelines that nobody is running, for prompts that begin as they do. They are shared within one owner and never across:
 * an owner learns nothing of what others asked, not even by how fast an answer comes.
 */
export class PrefixCache {
  readonly #maxSessions: number
  /** The one used longest ago first. */
  #idle: { owner: string; session: Session }[] = []

  constructor(maxSessions: number) {
    this.#maxSessions = maxSessions
  }

  get size(): number {
    return this.#idle.length
  }

  /**
   * The session to run this prompt in: an idle one that it continues, or a fork of one, idle or `running`, that shares its
   * beginning. Undefined where nothing would be spared.
   */
  take(owner: string, tokens: readonly number[], running: Iterable<Session> = []): Found | undefined {
    const mine = this.#idle.filter(entry => entry.owner === owner)
    const best = bestMatch([...mine.map(entry => entry.session), ...running], tokens)
    if (!best) return undefined
    const { session, common, cost } = best
    const entry = mine.find(entry => entry.session === session)
    if (entry) {
      this.#idle = this.#idle.filter(other => other !== entry)
      if (common === session.tokens.length) return { session, isTaken: true }
      this.#idle.push(entry)
    } else {
      session.mark(common) // its windows stay its own
    }
    return { session: session.fork(common), isTaken: false, ...(cost > 0 && { fork: common }) }
  }

  /** How many tokens of the prompt an idle timeline would spare. */
  spares(owner: string, tokens: readonly number[]): number {
    const mine = this.#idle.filter(entry => entry.owner === owner)
    const sessions = mine.map(entry => entry.session)
    return bestMatch(sessions, tokens)?.spared ?? 0
  }

  /** Keeps a session that nobody runs any more, as the one used last. */
  give(owner: string, session: Session): void {
    session.rest()
    this.#idle.push({ owner, session })
    if (this.#idle.length > this.#maxSessions) this.evict()
  }

  /** Frees the timeline used longest ago. False where there is none. */
  evict(): boolean {
    const oldest = this.#idle.shift()
    oldest?.session[Symbol.dispose]()
    return oldest !== undefined
  }
}

function bestMatch(sessions: readonly Session[], tokens: readonly number[]): Match | undefined {
  let best: Match | undefined
  for (const session of sessions) {
    // The last token runs in any case: its logits are wanted.
    const common = Math.min(commonPrefix(session.tokens, tokens), tokens.length - 1)
    if (common <= (best?.spared ?? 0)) continue
    const cost = session.cost(common)
    const spared = common - cost
    if (spared > (best?.spared ?? 0)) best = { session, common, spared, cost }
  }
  return best
}
