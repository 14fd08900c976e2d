/**
 * What `tutti doctor` predicts beside what `tutti bench` measures, on the same model: doctor, bench, doctor, bench, each
 * a process of its own.
 *
 *   node --conditions=tutti-source bench/doctor.ts [FOLDER] [--rounds N] [--json] [--noisy]
 *
 * FOLDER: a checkpoint, by default what bench/peers/setup made. Its files are read through first. A round in which other
 * processes took more than a fifth of a CPU's time is void and is repeated; --noisy counts it. With --json one JSON object
 * a measure, for bench/results/append.ts: `ours` is the doctor's, `peer` the bench's, `ratio` the first over the second,
 * and `rounds` of `more` that of each round.
 */
import { spawn, spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { machine } from '../scripts/bench.ts'
import type { Report } from '../src/hub/doctor-report.ts'
import { benchFolder, cacheFolder } from './peers/measures.ts'

const here = (name: string): string => fileURLToPath(new URL(name, import.meta.url))

const measures = ['decode', 'prefill-64', 'prefill-512'] as const
type Values = Record<(typeof measures)[number], number>
interface Round {
  doctor: Values
  bench: Values
  /** Bytes a second of huge pages, as each saw it. */
  plainRead: readonly [number, number]
}

/** Runs tutti, giving each line of stdout to `take`, until it ends or `take` has enough. */
async function tutti(args: readonly string[], take: (line: string) => boolean): Promise<void> {
  const flags = ['--conditions=tutti-source', '--disable-warning=ExperimentalWarning']
  const env = { ...process.env, TUTTI_CACHE_DIR: cacheFolder() }
  const child = spawn(process.execPath, [...flags, here('../src/cli/main.ts'), ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env,
  })
  const ended = new Promise<number | null>(resolve => child.on('close', resolve))
  let [text, hasEnough] = ['', false]
  child.stdout.on('data', chunk => {
    const lines = (text + chunk).split('\n')
    text = lines.pop()!
    for (const line of lines) hasEnough ||= take(line)
    if (hasEnough) child.kill('SIGINT')
  })
  const code = await ended
  if (!hasEnough)
    throw new Error(`tutti ${args.join(' ')} ended with code ${code}, and something is missing: see above`)
}

async function predicted(folder: string): Promise<{ values: Values; plainRead: number }> {
  let report: Report | undefined
  await tutti(['doctor', `--model=${folder}`, '--json'], line => {
    report = JSON.parse(line)
    return true
  })
  const { speeds, models } = report!
  const speed = models[0].speed
  if (!speeds || !speed || speed.disk) {
    throw new Error('the doctor predicts no speed, or one that is bound by the disk: take a machine with more memory')
  }
  const prefill = (tokens: number) => speed.prefill.find(of => of.tokens === tokens)!.tokensPerSecond
  return {
    values: {
      decode: speed.decode[0].tokensPerSecond,
      'prefill-64': prefill(64),
      'prefill-512': prefill(512),
    },
    plainRead: speeds.reads.huge,
  }
}

async function measured(folder: string): Promise<{ values: Values; plainRead: number }> {
  const found = new Map<string, number>()
  await tutti(['bench', `--model=${folder}`, '--json'], line => {
    const { what, value } = JSON.parse(line)
    found.set(what, value)
    return what === 'decode' // what follows is behind a context
  })
  return {
    values: {
      decode: found.get('decode')!,
      'prefill-64': found.get('prefill of 64 tokens')!,
      'prefill-512': found.get('prefill of 512 tokens')!,
    },
    plainRead: found.get('plain read of huge pages')! * 1e9,
  }
}

/** Seconds of all CPUs, in all processes and in those that this one has waited for, and of the clock; Linux tells. */
function cpuSeconds(): { all: number; ours: number; clock: number } {
  const ticks = (path: string) => readFileSync(path, 'utf8').split('\n')[0].split(/ +/)
  const [user, nice, system, , , irq, softirq, steal] = ticks('/proc/stat').slice(1).map(Number)
  const [utime, stime, cutime, cstime] = ticks('/proc/self/stat').slice(13).map(Number)
  const all = user + nice + system + irq + softirq + steal
  return { all: all / 100, ours: (utime + stime + cutime + cstime) / 100, clock: performance.now() / 1000 }
}

/** How many CPUs others kept busy meanwhile. */
async function withOthers<T>(run: () => Promise<T>): Promise<{ value: T; others: number }> {
  if (process.platform !== 'linux') return { value: await run(), others: 0 }
  const before = cpuSeconds()
  const value = await run()
  const after = cpuSeconds()
  return { value, others: (after.all - before.all - after.ours + before.ours) / (after.clock - before.clock) }
}

async function readThrough(folder: string): Promise<void> {
  const buffer = new Uint8Array(8 * 2 ** 20)
  for (const name of readdirSync(folder).filter(name => name.endsWith('.safetensors'))) {
    const handle = await open(join(folder, name))
    while ((await handle.read(buffer, 0, buffer.length, null)).bytesRead > 0);
    await handle.close()
  }
}

const maxOthers = 0.2
const maxVoidRounds = 5 // in a row

async function takeRounds(folder: string, count: number, noisy: boolean): Promise<Round[]> {
  const rounds: Round[] = []
  for (let numVoid = 0; rounds.length < count; ) {
    await readThrough(folder)
    const { value, others } = await withOthers(async (): Promise<Round> => {
      const [doctor, bench] = [await predicted(folder), await measured(folder)]
      return { doctor: doctor.values, bench: bench.values, plainRead: [doctor.plainRead, bench.plainRead] }
    })
    const isVoid = others > maxOthers && !noisy
    process.stderr.write(`${show(value)}; others took ${others.toFixed(2)} CPUs${isVoid ? ': void' : ''}\n`)
    if (!isVoid) rounds.push(value)
    numVoid = isVoid ? numVoid + 1 : 0
    if (numVoid === maxVoidRounds) {
      throw new Error(`${numVoid} rounds in a row were void: stop what else runs, or count every round with --noisy`)
    }
  }
  return rounds
}

function show({ doctor, bench, plainRead }: Round): string {
  const pairs = measures.map(name => `${name} ${round(doctor[name])} : ${round(bench[name])}`)
  return `doctor : bench  ${pairs.join(', ')}; plain read ${plainRead.map(speed => round(speed / 1e9)).join(', ')} GB/s`
}

function resultOf(name: (typeof measures)[number], rounds: readonly Round[]) {
  const [ours, peer] = [rounds.map(({ doctor }) => doctor[name]), rounds.map(({ bench }) => bench[name])]
  const ratios = ours.map((value, i) => value / peer[i])
  return {
    measure: `doctor-${name}`,
    ours: round(median(ours)),
    peer: round(median(peer)),
    against: 'tutti bench',
    ratio: round(median(ratios)),
    unit: 'tokens/s',
    spread: { ours: range(ours), peer: range(peer) },
    plainRead: range(rounds.flatMap(({ plainRead }) => plainRead).map(speed => speed / 1e9)),
    rounds: rounds.length,
    more: { ratios: ratios.map(round).join(' ') },
  }
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

const range = (values: readonly number[]) => [round(Math.min(...values)), round(Math.max(...values))]
const round = (value: number): number => Number(value.toPrecision(4))

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      rounds: { type: 'string', default: '3' },
      json: { type: 'boolean', default: false },
      noisy: { type: 'boolean', default: false },
    },
  })
  const folder = positionals[0] ?? join(benchFolder(), 'gpt-oss-20b-random')
  const commit = spawnSync('git', ['rev-parse', 'HEAD'], { cwd: here('.'), encoding: 'utf8' }).stdout?.trim() ?? ''
  const rounds = await takeRounds(folder, Number(values.rounds), values.noisy)
  for (const result of measures.map(name => resultOf(name, rounds))) {
    const { measure, ours, peer, ratio, more } = result
    const about = { model: basename(folder), cpu: machine(), date: new Date().toISOString().slice(0, 10), commit }
    const line = `${measure}: ${ours} predicted, ${peer} measured, ratio ${ratio} (each round ${more.ratios})`
    process.stdout.write(`${values.json ? JSON.stringify({ ...result, ...about }) : line}\n`)
  }
}

await main().catch(error => {
  console.error(error.message)
  process.exitCode = 1
})
