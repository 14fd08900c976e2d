/**
 * Appends figures to a machine's file, as they come: the JSON lines of `tutti bench --json` or `npm run bench:peers --
 * --json` on stdin, a row each.
 *
 *   npm run bench:peers -- --json | npx node bench/results/append.ts bench/results/<machine>.csv
 */
import { spawnSync } from 'node:child_process'
import { appendFileSync, existsSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { machine } from '../../scripts/bench.ts'

export const columns = [
  'date',
  'commit',
  'measure',
  'ours',
  'peer',
  'against',
  'ratio',
  'limit',
  'unit',
  'spread',
  'peer spread',
  'plain read GB/s',
  'more',
] as const

type Row = Partial<Record<(typeof columns)[number], unknown>>
type Json = Record<string, unknown>

/** One line of either program as a row; `now` says what the line itself does not. */
export function row(line: Json, now: { date: string; commit: string }): string {
  const cells: Row = { ...now, ...('what' in line ? ofBench(line) : ofPeers(line)) }
  return columns.map(column => quoted(cells[column])).join(',')
}

function ofPeers({ spread, plainRead, more, options, rounds, model, cpu: _, ...rest }: Json): Row {
  const { ours, peer } = spread as Record<'ours' | 'peer', readonly number[]>
  return {
    ...rest,
    commit: (rest.commit as string).slice(0, 7),
    spread: ours.join('–'),
    'peer spread': peer.join('–'),
    'plain read GB/s': (plainRead as readonly number[]).join('–'),
    more: told({ model, rounds, ...(options as Json), ...(more as Json) }),
  }
}

function ofBench({ what, value, unit, limit, note, model, device, cache }: Json): Row {
  const rounded = (number: unknown) => (number === undefined ? undefined : Number((number as number).toPrecision(4)))
  return {
    measure: what,
    ours: rounded(value),
    limit: rounded(limit),
    unit,
    more: told({ model, device, cache, note }),
  }
}

const told = (fields: Json): string =>
  Object.entries(fields)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => `${key} ${value}`)
    .join('; ')

function quoted(value: unknown): string {
  const text = value === undefined || value === null ? '' : String(value)
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}

async function main(path: string | undefined): Promise<void> {
  if (!path) throw new Error('say which file: bench/results/<machine>.csv')
  const folder = fileURLToPath(new URL('.', import.meta.url))
  const commit = spawnSync('git', ['rev-parse', '--short=7', 'HEAD'], { cwd: folder, encoding: 'utf8' }).stdout?.trim()
  if (!existsSync(path)) appendFileSync(path, `# ${machine()}\n${columns.join(',')}\n`)
  for await (const text of createInterface({ input: process.stdin })) {
    if (!text.startsWith('{')) continue // npm says what it runs
    const date = new Date().toISOString().slice(0, 10)
    appendFileSync(path, `${row(JSON.parse(text), { date, commit: commit ?? '' })}\n`)
    process.stdout.write(`${text}\n`)
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  await main(process.argv[2]).catch(error => {
    console.error(error.message)
    process.exitCode = 1
  })
}
