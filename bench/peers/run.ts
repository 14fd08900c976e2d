/**
 * Ours beside the peers, on the same weights. One process at a time, alternating ours, peer, ours, peer; before each the
 * files that it will use are read through, and a run around which the plain read of memory moved by more than a tenth
 * does not count. Finished runs are kept: after an interruption the same command goes on. bench/peers/setup makes what
 * is needed.
 *
 *   npm run bench:peers -- [--json] [measure …] [--rounds N] [--fresh] [--noisy]
 *                          [--device NAME] [--precision NAME] [--cache NAME] [--folder FOLDER] [--gguf FILE]
 *
 * --fresh forgets runs of an interrupted call. --noisy counts every run, on a machine that is not quiet: for trying out.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { appendFileSync, existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { open, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { machine } from '../../scripts/bench.ts'
import { type JsonObject, parseJson } from '../../src/base/json.ts'
import type { DeviceOptions } from '../../src/device/options.ts'
import { readConfig } from '../../src/model/config.ts'
import { measureIk } from './ik.ts'
import { bytesPerToken } from './limit.ts'
import { benchFolder, type Values } from './measures.ts'
import { type Group, groupsOf, isVoid, type Result, type Run, resultOf, usualNames } from './rounds.ts'

const maxVoidRuns = 3

interface Setting {
  /** The safetensors, and the same weights for the peers. */
  folder: string
  gguf: string
  options: DeviceOptions
  rounds: number
  noisy: boolean
  cpu: string
  /** Of the clone, where git tells it: runs of other code are not gone on with. */
  commit: string
}

const here = (name: string): string => fileURLToPath(new URL(name, import.meta.url))
const runsFile = (): string => join(benchFolder(), 'peers-runs.jsonl')

// --- one run ---

/** Runs `command`, whose last line is JSON. Its own messages go to stderr. */
function lastLine(command: string, args: readonly string[]): Promise<Values> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  child.stdout.on('data', chunk => (text += chunk))
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => {
      const line = text.trim().split('\n').at(-1)!
      if (code === 0) resolve(JSON.parse(line))
      else reject(new Error(`${command} ${args.join(' ')} ended with ${signal ?? `code ${code}`}: see above`))
    })
  })
}

function measure(side: Run['side'], group: Group, setting: Setting): Promise<Values> {
  const script = (name: string, ...args: string[]) =>
    lastLine(process.execPath, [
      '--conditions=tutti-source',
      '--disable-warning=ExperimentalWarning',
      here(name),
      ...args,
    ])
  const names = JSON.stringify(group.names)
  if (side === 'ours') {
    return script('ours.ts', setting.folder, names, String(Date.now()), JSON.stringify(setting.options))
  }
  if (group.peer === 'ik_llama.cpp') return measureIk(setting.gguf, group.names, lastLine)
  return script('llama.ts', setting.gguf, names, String(Date.now()))
}

/** Brings files into the page cache, as far as there is room. */
async function readThrough(path: string): Promise<void> {
  const files = statSync(path).isDirectory() ? (await readdir(path)).map(name => join(path, name)) : [path]
  const buffer = new Uint8Array(8 * 2 ** 20)
  for (const file of files) {
    const handle = await open(file)
    while ((await handle.read(buffer, 0, buffer.length, null)).bytesRead > 0);
    await handle.close()
  }
}

/** Bytes a second of each kind of memory that is named. */
function plainRead(...kinds: string[]): Record<string, number> {
  const program = join(benchFolder(), 'plain-read')
  const source = here('plain-read.c')
  if (!existsSync(program) || statSync(program).mtimeMs < statSync(source).mtimeMs) {
    execFileSync('cc', ['-O3', '-march=native', '-std=gnu11', '-pthread', source, '-o', program], { stdio: 'inherit' })
  }
  return JSON.parse(execFileSync(program, kinds, { encoding: 'utf8' }))
}

async function oneRun(side: Run['side'], group: Group, setting: Setting): Promise<Run> {
  for (let i = 0; i < maxVoidRuns; i++) {
    const before = plainRead('huge').huge
    await readThrough(side === 'ours' ? setting.folder : setting.gguf)
    const values = await measure(side, group, setting)
    const run: Run = { side, values, plainRead: [before, plainRead('huge').huge] }
    if (setting.noisy || !isVoid(run)) return run
    process.stderr.write(`${describe(run)}  void: memory was read at another speed before than after\n`)
  }
  throw new Error(`${maxVoidRuns} runs were void: something else takes this machine's memory; stop it, or try --noisy`)
}

function describe({ side, values, plainRead }: Run): string {
  const numbers = Object.entries(values).map(([name, value]) => `${name} ${value.toPrecision(4)}`)
  return `${side}: ${numbers.join(', ')} (plain read ${plainRead.map(read => (read / 1e9).toFixed(1)).join(' → ')} GB/s)`
}

// --- all of them ---

/** Finished runs of a group that an interrupted call left, told apart by everything that matters to them. */
function keptRuns(key: string): Run[] {
  if (!existsSync(runsFile())) return []
  const lines = readFileSync(runsFile(), 'utf8').trim().split('\n').filter(Boolean)
  const entries: { key: string; run: Run | null }[] = lines.map(line => JSON.parse(line))
  const ours = entries.filter(entry => entry.key === key)
  const lastEnd = ours.findLastIndex(entry => entry.run === null)
  return ours.slice(lastEnd + 1).map(entry => entry.run!)
}

const keep = (key: string, run: Run | null): void => appendFileSync(runsFile(), `${JSON.stringify({ key, run })}\n`)

async function measureGroup(group: Group, setting: Setting, fresh: boolean): Promise<Result[]> {
  const key = JSON.stringify({ ...group, ...setting, rounds: undefined })
  if (fresh) keep(key, null)
  const runs = keptRuns(key)
  for (const run of runs) process.stderr.write(`${describe(run)}  kept\n`)
  const sides: Run['side'][] = group.peer === 'none' ? ['ours'] : ['ours', 'peer']
  while (runs.length < setting.rounds * sides.length) {
    const run = await oneRun(sides[runs.length % sides.length], group, setting)
    runs.push(run)
    keep(key, run)
    process.stderr.write(`${describe(run)}\n`)
  }
  const limit = group.names.includes('decode') ? decodeLimit(setting.folder) : null
  keep(key, null)
  return group.names.map(name => resultOf(name, group.peer, runs, { cpu: setting.cpu, limit }))
}

/** Experts are read where their file is mapped, the matrices kept at 8 bits in huge pages. */
function decodeLimit(folder: string): number {
  const path = join(folder, 'config.json')
  const config = readConfig(parseJson(readFileSync(path, 'utf8')) as JsonObject, path)
  const { experts, matrices } = bytesPerToken(config)
  const { huge, mapped } = plainRead('huge', largestIn(folder))
  return 1 / (experts / mapped + matrices / huge)
}

function largestIn(folder: string): string {
  const files = readdirSync(folder).filter(name => name.endsWith('.safetensors'))
  const sized = files.map(name => join(folder, name)).map(path => ({ path, size: statSync(path).size }))
  return sized.sort((a, b) => b.size - a.size)[0].path
}

function commit(): string {
  const { stdout } = spawnSync('git', ['rev-parse', 'HEAD'], { cwd: here('.'), encoding: 'utf8' })
  return stdout?.trim() ?? ''
}

function show({ measure, ours, peer, ratio, limit, unit, spread, plainRead, rounds }: Result): string {
  const side = (value: number, [least, most]: readonly [number, number]) => `${value} (${least}–${most})`
  return (
    `${measure}: ours ${side(ours, spread.ours)}, peer ${side(peer, spread.peer)} ${unit}, ratio ${ratio}` +
    (limit === null ? '' : `, ${((100 * ours) / limit).toFixed(0)} % of the limit ${limit}`) +
    `; ${rounds} rounds, plain read ${plainRead.join('–')} GB/s`
  )
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      json: { type: 'boolean', default: false },
      fresh: { type: 'boolean', default: false },
      noisy: { type: 'boolean', default: false },
      rounds: { type: 'string', default: '3' },
      device: { type: 'string' },
      precision: { type: 'string' },
      cache: { type: 'string' },
      folder: { type: 'string', default: join(benchFolder(), 'gpt-oss-20b-random') },
      gguf: { type: 'string', default: join(benchFolder(), 'gpt-oss-20b-random.gguf') },
    },
  })
  const { folder, gguf, noisy, device, precision, cache } = values
  for (const path of [folder, gguf, join(benchFolder(), 'node-llama-cpp')]) {
    if (!existsSync(path)) throw new Error(`there is no ${path}: run bench/peers/setup (TUTTI_BENCH_DIR says where)`)
  }
  const rounds = Number(values.rounds)
  const options = { device, precision, cache } as DeviceOptions
  const setting = { folder, gguf, options, rounds, noisy, cpu: machine(), commit: commit() }
  for (const group of groupsOf(positionals.length > 0 ? positionals : usualNames())) {
    for (const result of await measureGroup(group, setting, values.fresh)) {
      appendFileSync(join(benchFolder(), 'peers-results.jsonl'), `${JSON.stringify(result)}\n`)
      process.stdout.write(`${values.json ? JSON.stringify(result) : show(result)}\n`)
    }
  }
}

await main().catch(error => {
  console.error(error.message)
  process.exitCode = 1
})
