/**
 * Ours beside the peers, on the same weights. One process at a time, alternating ours, peer, ours, peer; before each the
 * files that it will use are read through, and a run around which the plain read of memory moved by more than a tenth
 * does not count. Finished runs are kept: after an interruption the same command goes on. bench/peers/setup makes what
 * is needed.
 *
 *   npm run bench:peers -- [--json] [measure …] [--rounds N] [--fresh] [--noisy]
 *                          [--device NAME] [--precision NAME] [--cache NAME] [--no-keep] [--folder FOLDER] [--gguf FILE]
 *
 * --fresh forgets runs of an interrupted call. --noisy counts every run, on a machine that is not quiet: for trying out.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { appendFileSync, existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { machine } from '../../scripts/bench.ts'
import { type JsonObject, parseJson } from '../../src/base/json.ts'
import type { DeviceOptions } from '../../src/device/options.ts'
import { readConfig } from '../../src/model/config.ts'
import { measureIk } from './ik.ts'
import { KeptRuns } from './kept-runs.ts'
import { benchFolder, cacheFolder, type Values } from './measures.ts'
import { type Group, groupsOf, type Result, type Run, resultOf, type Setting, takeRuns, usualNames } from './rounds.ts'

/** The same weights for us and for the peers. */
interface Weights {
  folder: string
  gguf: string
}

const here = (name: string): string => fileURLToPath(new URL(name, import.meta.url))

// --- programs ---

/** Runs `command`, whose last line is JSON. Its own messages go to stderr. */
function lastLine(command: string, args: readonly string[]): Promise<Values> {
  const env = { ...process.env, TUTTI_CACHE_DIR: cacheFolder() }
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'], env })
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

function script(name: string, ...args: string[]): Promise<Values> {
  const flags = ['--conditions=tutti-source', '--disable-warning=ExperimentalWarning']
  return lastLine(process.execPath, [...flags, here(name), ...args])
}

/** A C program of this folder, compiled for this machine when it is first used. */
function compiled(name: string): string {
  const [program, source] = [join(benchFolder(), name), here(`${name}.c`)]
  if (!existsSync(program) || statSync(program).mtimeMs < statSync(source).mtimeMs) {
    execFileSync('cc', ['-O3', '-march=native', '-std=gnu11', '-pthread', source, '-o', program], { stdio: 'inherit' })
  }
  return program
}

const output = (program: string, ...args: string[]): Values =>
  JSON.parse(execFileSync(compiled(program), args, { encoding: 'utf8' }))

// --- one run ---

/** The largest first. */
function weightFiles(folder: string): string[] {
  const names = readdirSync(folder).filter(name => name.endsWith('.safetensors'))
  const paths = names.map(name => join(folder, name))
  return paths.sort((a, b) => statSync(b).size - statSync(a).size)
}

/** What we keep of checkpoints: of this one, and of others that were measured before. */
function keptFiles(): string[] {
  const folder = join(cacheFolder(), 'matrices')
  return existsSync(folder) ? readdirSync(folder).map(name => join(folder, name)) : []
}

/** Brings files into the page cache, as far as there is room. */
async function readThrough(files: readonly string[]): Promise<void> {
  const buffer = new Uint8Array(8 * 2 ** 20)
  for (const file of files) {
    const handle = await open(file)
    while ((await handle.read(buffer, 0, buffer.length, null)).bytesRead > 0);
    await handle.close()
  }
}

const ours = (names: readonly string[], { folder }: Weights, options: DeviceOptions): Promise<Values> =>
  script('ours.ts', folder, JSON.stringify(names), String(Date.now()), JSON.stringify(options))

async function oneRun(
  side: Run['side'],
  { names, peer }: Group,
  weights: Weights,
  options: DeviceOptions,
): Promise<Run> {
  const { folder, gguf } = weights
  const files = side === 'ours' ? weightFiles(folder) : [gguf]
  const isCold = names.includes('start-cold')
  const values = async () => {
    if (isCold) return startCold(files, () => ours(['start'], weights, options))
    if (side === 'ours') return ours(names, weights, options)
    if (peer === 'ik_llama.cpp') return measureIk(gguf, names, lastLine)
    return script('llama.ts', gguf, JSON.stringify(names), String(Date.now()))
  }
  if (!isCold) {
    // Where memory cannot hold both sides' files, those that were used last would stay, and the others not wholly come.
    output('disk-read', 'drop', ...(side === 'ours' ? [gguf] : [...weightFiles(folder), ...keptFiles()]))
    await readThrough(side === 'ours' ? [...files, ...keptFiles()] : files)
  }
  const before = output('plain-read', 'huge', files[0])
  const taken = await values()
  const after = output('plain-read', 'huge')
  return {
    side,
    values: taken,
    plainRead: [before.huge, after.huge],
    ...(side === 'ours' && { mappedRead: before.mapped }),
  }
}

/** Beside the faster of reading the files before and after: what is read later may come from a cache below this system. */
async function startCold(files: readonly string[], start: () => Promise<Values>): Promise<Values> {
  const dropped = () => {
    const all = [...files, ...keptFiles()]
    const { left } = output('disk-read', 'drop', ...all)
    const total = all.reduce((sum, file) => sum + statSync(file).size, 0)
    if (left > total / 100) {
      const shown = `${(left / 1e9).toFixed(2)} of ${(total / 1e9).toFixed(2)} GB`
      throw new Error(`${shown} stay in the page cache: another process has mapped the files; end it`)
    }
  }
  const read = () => {
    dropped()
    return output('disk-read', 'read', ...files).seconds
  }
  const before = read()
  dropped()
  const values = await start()
  const after = read()
  return { 'start-cold': values.start, disk: Math.min(before, after), 'disk-before': before, 'disk-after': after }
}

function describe({ side, values, plainRead }: Run): string {
  const numbers = Object.entries(values).map(([name, value]) => `${name} ${value.toPrecision(4)}`)
  return `${side}: ${numbers.join(', ')} (plain read ${plainRead.map(read => (read / 1e9).toFixed(1)).join(' → ')} GB/s)`
}

// --- all of them ---

interface Choice {
  rounds: number
  fresh: boolean
  noisy: boolean
}

async function measureGroup(group: Group, weights: Weights, setting: Setting, choice: Choice): Promise<Result[]> {
  const { options, cpu, commit } = setting
  const { rounds, noisy } = choice
  const key = JSON.stringify({ ...group, ...weights, options, noisy, cpu, commit })
  const kept = new KeptRuns(join(benchFolder(), 'peers-runs.jsonl'), key)
  if (choice.fresh) kept.end()
  const bench = {
    take: (side: Run['side']) => oneRun(side, group, weights, options),
    keep: (run: Run) => kept.keep(run),
    tell: (run: Run, remark = '') => void process.stderr.write(`${describe(run)}  ${remark}\n`),
  }
  const runs = await takeRuns(group, rounds, kept.runs, bench, noisy)
  kept.end()
  return group.names.map(name => resultOf(name, group.peer, runs, setting))
}

function commit(): string {
  const { stdout } = spawnSync('git', ['rev-parse', 'HEAD'], { cwd: here('.'), encoding: 'utf8' })
  return stdout?.trim() ?? ''
}

function show({ measure, ours, peer, against, ratio, limit, unit, spread, plainRead, rounds, more }: Result): string {
  const side = (value: number, [least, most]: readonly [number, number]) => `${value} (${least}–${most})`
  const extra = Object.entries(more).map(([key, value]) => `, ${key} ${value}`)
  return (
    `${measure}: ours ${side(ours, spread.ours)}, ${against} ${side(peer, spread.peer)} ${unit}, ratio ${ratio}` +
    `${limit === null ? '' : `, limit ${limit}`}${extra.join('')}` +
    `; ${rounds} rounds, plain read ${plainRead.join('–')} GB/s`
  )
}

/** Of what will be needed, so that nothing is found missing after an hour. */
function checkPresent(groups: readonly Group[], { folder, gguf }: Weights): void {
  const has = (peer: Group['peer']) => groups.some(group => group.peer === peer)
  const needed = [folder]
  if (has('node-llama-cpp')) needed.push(gguf, join(benchFolder(), 'node-llama-cpp', 'installed'))
  if (has('ik_llama.cpp')) needed.push(gguf, join(benchFolder(), 'ik', 'installed'))
  const missing = needed.find(path => !existsSync(path))
  if (missing) throw new Error(`there is no ${missing}: run bench/peers/setup (TUTTI_BENCH_DIR says where)`)
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
      'no-keep': { type: 'boolean' },
      folder: { type: 'string', default: join(benchFolder(), 'gpt-oss-20b-random') },
      gguf: { type: 'string', default: join(benchFolder(), 'gpt-oss-20b-random.gguf') },
    },
  })
  const { folder, gguf, device, precision, cache, fresh, noisy } = values
  const weights = { folder, gguf }
  const groups = groupsOf(positionals.length > 0 ? positionals : usualNames())
  checkPresent(groups, weights)
  const path = join(folder, 'config.json')
  const config = readConfig(parseJson(readFileSync(path, 'utf8')) as JsonObject, path)
  const options = { device, precision, cache, ...(values['no-keep'] && { keep: false }) } as DeviceOptions
  const setting = { cpu: machine(), model: basename(folder), config, options, commit: commit() }
  if (options.keep !== false) await ours(['kept'], weights, options)
  for (const group of groups) {
    for (const result of await measureGroup(group, weights, setting, { rounds: Number(values.rounds), fresh, noisy })) {
      appendFileSync(join(benchFolder(), 'peers-results.jsonl'), `${JSON.stringify(result)}\n`)
      process.stdout.write(`${values.json ? JSON.stringify(result) : show(result)}\n`)
    }
  }
}

await main().catch(error => {
  console.error(error.message)
  process.exitCode = 1
})
