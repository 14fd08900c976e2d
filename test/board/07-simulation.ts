import { type Happening, happenings, simulate } from '../../src/engine/simulation.testing.ts'
import type { Row } from './row.ts'

const scheduler = 'src/engine/scheduler.ts'
const caches = 'src/model/kv-cache.ts'

/**
 * `--part trace` runs the seed of `--seed` alone and tells every step: how a failure is replayed.
 */
export const row: Row = {
  row: 7,
  title: 'deterministic simulation of the scheduler',
  async run({ long, quick, part, seed }) {
    if (part === 'trace') return { n: 1, ...(await simulate(seed, { tell: line => console.error(line) })) }
    const n = long ? 20_000 : quick ? 100 : 500
    const counts = Object.fromEntries(happenings.map(name => [name, 0])) as Record<Happening, number>
    const failures: string[] = []
    for (let i = 0; i < n; i++) {
      const simulated = await simulate(seed + i)
      for (const name of happenings) counts[name] += simulated.counts[name]
      const [first] = simulated.failures
      if (first) failures.push(`seed ${seed + i}: ${first} (npm run board -- 7 --part trace --seed ${seed + i})`)
    }
    // What the row is about must have happened.
    for (const name of happenings) if (counts[name] < n / 10) failures.push(`${name}: ${counts[name]} in ${n} seeds`)
    return { n, failures }
  },
  planted: [
    {
      file: scheduler,
      search: 'if (this.#hasRoom(batch)) await',
      replace: 'if (await this.#hasRoom(batch)) await',
      what: 'a pass begins a moment after it was chosen',
    },
    {
      file: scheduler,
      search: 'job => !job.isBusy && mayWait(job)',
      replace: 'job => mayWait(job)',
      what: 'who is in a pass is made to wait',
    },
    {
      file: scheduler,
      search: '        if (job.isOver) this.#remove(job)\n      }\n      this.#somethingEnded',
      replace: '      }\n      this.#somethingEnded',
      what: 'who leaves in a pass keeps its place',
    },
    {
      file: scheduler,
      search: 'return this.#makeRoom(bytes) ||',
      replace: 'return this.#makeRoom(0) ||',
      what: 'a pass takes more than there is room for',
    },
    {
      file: scheduler,
      search: 'void job.done.then(timer.cancel, timer.cancel)',
      replace: '',
      what: 'deadlines outlive their requests',
    },
    {
      file: scheduler,
      search: 'job.rank === rank && job.isAnswering',
      replace: 'job.isAnswering',
      what: 'work that nobody waits for runs beside what somebody waits for',
    },
    {
      file: scheduler,
      search: '(this.#lastBegun.get(a.owner) ?? -1) - (this.#lastBegun.get(b.owner) ?? -1) ||',
      replace: '',
      what: 'an owner is passed by again and again',
    },
    {
      file: 'src/engine/prefix-cache.ts',
      search: `  take(owner: string, tokens: readonly number[], running: Iterable<Session> = []): Found | undefined {
    const mine = this.#idle.filter(entry => entry.owner === owner)`,
      replace: `  take(_: string, tokens: readonly number[], running: Iterable<Session> = []): Found | undefined {
    const mine = this.#idle`,
      what: 'owners share what they have run',
    },
    {
      file: 'src/engine/job.ts',
      search: 'if (total - done >= this.#prefill.left) return',
      replace: '',
      what: 'progress falls when a request had to wait',
    },
    {
      file: caches,
      search: 'const restart = Math.max(0, position - this.#reach)',
      replace: 'const restart = Math.max(0, position - this.#reach + 1)',
      what: 'windows are rebuilt from a token too late',
    },
  ],
}
