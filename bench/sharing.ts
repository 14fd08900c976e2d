/**
 * What two models at once lose: the speed of one alone, of two in one process, and of two in two processes, in turn; and
 * the processor time that loaded models take while nobody asks them anything.
 *
 *   node --conditions=tutti-source bench/sharing.ts [FOLDER] [--kind decode | prefill] [--rounds N] [--seconds N] [--json]
 *
 * FOLDER: a checkpoint, by default nano's. Three copies' own memory has to fit; weights that are mapped are shared. Sharing
 * costs nothing where the speeds of both together are that of one alone. The best of all rounds counts: whatever else
 * runs can only take speed away.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { machine } from '../scripts/bench.ts'
import type { Engine } from '../src/engine/engine.ts'
import { load } from '../src/index.ts'
import { prompt } from './peers/measures.ts'

const kinds = ['decode', 'prefill'] as const
type Kind = (typeof kinds)[number]

const promptTokens = 64
const contextLength = 2048
const idleSeconds = 5

/** What a process is asked: some of its models to work in a span of wall-clock time, or all of them to do nothing. */
type Task = { kind: Kind; models: number[]; begin: number; end: number } | { kind: 'idle' }

// --- a process with models ---

/** Tokens a second of one model within a span of time, by when tokens came. */
async function speed(engine: Engine, { kind, begin, end }: Exclude<Task, { kind: 'idle' }>): Promise<number> {
  const times: number[] = []
  const tokens = prompt(kind === 'decode' ? 16 : promptTokens, 1, engine.info.vocabSize)
  const maxTokens = kind === 'decode' ? 1024 : 1
  while (Date.now() < end) {
    for await (const event of engine.generate({ tokens, maxTokens, stopTokens: [], sampling: { temperature: 0 } })) {
      const now = performance.timeOrigin + performance.now()
      if (now > end) break
      if (event.type === 'token' && now >= begin) times.push(now)
    }
  }
  if (times.length < 3) throw new Error(`${times.length} tokens came in ${(end - begin) / 1000} s: give more --seconds`)
  const perStep = kind === 'decode' ? 1 : promptTokens
  return (1000 * perStep * (times.length - 1)) / (times.at(-1)! - times[0])
}

/** Of one core, by everything in this process. */
async function idleShare(): Promise<number> {
  const before = process.cpuUsage()
  await new Promise(resolve => setTimeout(resolve, 1000 * idleSeconds))
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1e6 / idleSeconds
}

async function serve(folder: string, numModels: number): Promise<void> {
  const models = await Promise.all(Array.from({ length: numModels }, () => load(folder, { contextLength })))
  process.on('message', async (task: Task) => {
    if (task.kind === 'idle') process.send!([await idleShare()])
    else process.send!(await Promise.all(task.models.map(n => speed(models[n].engine, task))))
  })
  process.send!('ready')
}

// --- the measuring one ---

interface Setup {
  name: string
  /** Which models work: process and number in it. */
  working: readonly (readonly [process: number, model: number])[]
}
const setups: readonly Setup[] = [
  { name: 'alone', working: [[0, 0]] },
  {
    name: 'two in one process',
    working: [
      [0, 0],
      [0, 1],
    ],
  },
  {
    name: 'two processes',
    working: [
      [0, 0],
      [1, 0],
    ],
  },
]

async function start(folder: string, numModels: number): Promise<ChildProcess> {
  const child = fork(fileURLToPath(import.meta.url), [folder, '--serve', String(numModels)], {
    execArgv: ['--conditions=tutti-source', '--disable-warning=ExperimentalWarning'],
  })
  await answer(child)
  return child
}

/** The next message of a process. */
async function answer(child: ChildProcess): Promise<unknown> {
  const over = new AbortController()
  const { signal } = over
  try {
    const [message] = await Promise.race([once(child, 'message', { signal }), ended(child, signal)])
    return message
  } finally {
    over.abort()
  }
}

async function ended(child: ChildProcess, signal: AbortSignal): Promise<never> {
  const [code] = await once(child, 'exit', { signal })
  throw new Error(`a process with models ended with code ${code}: see above`)
}

/** Each working model's tokens a second. */
async function measure(
  children: readonly ChildProcess[],
  { working }: Setup,
  kind: Kind,
  seconds: number,
): Promise<number[]> {
  const begin = Date.now() + 500 // by then all of them are at work
  const end = begin + 1000 * seconds
  const asked = children.map((child, n) => {
    const models = working.filter(([process]) => process === n).map(([, model]) => model)
    if (models.length === 0) return []
    child.send({ kind, models, begin, end } satisfies Task)
    return answer(child) as Promise<number[]>
  })
  return (await Promise.all(asked)).flat()
}

const shown = (value: number): string => value.toPrecision(3)
const total = (speeds: readonly number[]): number => speeds.reduce((a, b) => a + b)

async function compare(children: readonly ChildProcess[], kind: Kind, choice: Choice): Promise<void> {
  const taken = new Map<Setup, number[][]>(setups.map(setup => [setup, []]))
  for (let round = 0; round < choice.rounds; round++) {
    for (const [setup, speeds] of taken) speeds.push(await measure(children, setup, kind, choice.seconds))
  }
  const alone = Math.max(...taken.get(setups[0])!.map(total))
  for (const [{ name }, speeds] of taken) {
    const [each] = speeds.toSorted((a, b) => total(b) - total(a))
    const sums = speeds.map(total)
    const [least, sum] = [Math.min(...sums), Math.max(...sums)]
    const line = { what: `${kind}, ${name}`, each, sum, least, ratio: sum / alone, unit: 'tokens/s' }
    const parts = each.length > 1 ? `${each.map(shown).join(' + ')} = ` : ''
    const text = `${line.what.padEnd(28)} ${parts}${shown(sum)} tokens/s (worst ${shown(least)}), ${shown(line.ratio)} of alone`
    console.log(choice.json ? JSON.stringify(line) : text)
  }
}

interface Choice {
  rounds: number
  seconds: number
  json: boolean
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      rounds: { type: 'string', default: '5' },
      seconds: { type: 'string', default: '3' },
      kind: { type: 'string' },
      json: { type: 'boolean', default: false },
      serve: { type: 'string' },
    },
  })
  const [folder = 'nano'] = positionals
  if (values.serve) return serve(folder, Number(values.serve))
  const children = [await start(folder, 2), await start(folder, 1)]
  try {
    console.error(machine())
    const options = { rounds: Number(values.rounds), seconds: Number(values.seconds), json: values.json }
    const wanted = kinds.filter(kind => values.kind === undefined || kind === values.kind)
    for (const kind of wanted) await compare(children, kind, options)
    children[0].send({ kind: 'idle' } satisfies Task)
    const [value] = (await answer(children[0])) as number[]
    const line = { what: 'two idle models', value, unit: 'cores' }
    console.log(values.json ? JSON.stringify(line) : `${line.what.padEnd(28)} ${(100 * value).toFixed(2)} % of a core`)
  } finally {
    for (const child of children) child.kill()
  }
}

await main().catch(error => {
  console.error(error.message)
  process.exitCode = 1
})
