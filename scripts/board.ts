/**
 * The reliability board: runs the rows of test/board and prints one line of JSON for each; failures go to stderr.
 *
 *   npm run board -- [row numbers] [--long] [--quick] [--part NAME] [--planted] [--seed N]
 *
 * --long runs the full counts, --quick no more cases than a planted bug needs (not every row has fewer), --part one of
 * the row's parts. A row that this machine cannot run says so, and is no failure but in CI.
 * Exits 1 if a row fails or runs no case. With --planted every row runs on copies of the source with one bug planted
 * in each (--quick unless --long), and it is an error if the row finds nothing.
 */
import { globSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import type { Patch, Row, RunOptions } from '../test/board/row.ts'
import { plant, runNode } from '../test/planted.ts'

const boardFolder = fileURLToPath(new URL('../test/board', import.meta.url))

export interface Line {
  row: number
  n: number
  failures: number
  seconds: number
  seed: number
  /** The bug that was planted. */
  planted?: string
}
/** The rows that exist, by number, or those asked for. */
export async function findRows(numbers: number[] = []): Promise<Row[]> {
  const files = globSync('[0-9][0-9]-*.ts', { cwd: boardFolder }).filter(file => !file.endsWith('.test.ts'))
  const rows = await Promise.all(files.map(readRow))
  rows.sort((a, b) => a.row - b.row)
  const unknown = numbers.filter(number => !rows.some(({ row }) => row === number))
  if (unknown.length > 0)
    throw new Error(`no row ${unknown.join(', ')}: there are ${rows.map(({ row }) => row).join(', ')}`)
  return numbers.length === 0 ? rows : rows.filter(({ row }) => numbers.includes(row))
}

async function readRow(file: string): Promise<Row> {
  const { row } = (await import(pathToFileURL(join(boardFolder, file)).href)) as { row: Row }
  if (row.row !== Number.parseInt(basename(file), 10)) throw new Error(`${file} holds row ${row.row}: rename it`)
  return row
}

/** Runs a row on the source as it is. What it throws counts as a failure. */
export async function runRow(row: Row, options: RunOptions): Promise<{ line: Line; failures: string[] }> {
  const start = performance.now()
  const { n, failures } = await row.run(options).catch(error => ({ n: 0, failures: [String(error?.stack ?? error)] }))
  const seconds = Number(((performance.now() - start) / 1000).toFixed(2))
  return { line: { row: row.row, n, failures: failures.length, seconds, seed: options.seed }, failures }
}

/** Runs a row in a process of its own on a copy of the source with a bug planted. Throws if it did not run there. */
export async function runPlanted(row: Row, patch: Patch, { long, seed }: RunOptions): Promise<Line> {
  const args = ['scripts/board.ts', String(row.row), '--seed', String(seed), long ? '--long' : '--quick']
  if (patch.part) args.push('--part', patch.part)
  const { code, stdout, stderr } = await plant([patch], folder => runNode(folder, args))
  if (!stdout.startsWith('{'))
    throw new Error(`row ${row.row} with its planted bug ended with code ${code}:\n${stderr}`)
  return { ...JSON.parse(stdout), planted: patch.what ?? `${patch.file}: ${patch.replace.trim()}` }
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      long: { type: 'boolean', default: false },
      quick: { type: 'boolean', default: false },
      part: { type: 'string' },
      planted: { type: 'boolean', default: false },
      seed: { type: 'string', default: '1' },
    },
  })
  const options = { long: values.long, quick: values.quick, part: values.part, seed: Number(values.seed) }
  if (!Number.isSafeInteger(options.seed)) throw new Error(`--seed ${values.seed} is not a whole number`)
  const rows = await findRows(positionals.map(Number))
  for (const row of rows) {
    const obstacle = process.env.CI ? undefined : await row.obstacle?.()
    if (obstacle) console.error(`row ${row.row} (${row.title}) was not run: ${obstacle}`)
    else await (values.planted ? printPlanted(row, options) : print(row, options))
  }
  if (rows.length === 0) fail('there are no rows in test/board')
}

async function print(row: Row, options: RunOptions): Promise<void> {
  const { line, failures } = await runRow(row, options)
  console.log(JSON.stringify(line))
  for (const failure of failures.slice(0, 20)) console.error(`row ${row.row}: ${failure}`)
  if (line.failures > 0) fail(`row ${row.row} (${row.title}) has ${line.failures} failures`)
  if (line.n === 0) fail(`row ${row.row} (${row.title}) ran no case`)
}

async function printPlanted(row: Row, options: RunOptions): Promise<void> {
  if (row.planted.length === 0) fail(`row ${row.row} (${row.title}) has no planted bug`)
  for (const patch of row.planted) {
    const line = await runPlanted(row, patch, options)
    console.log(JSON.stringify(line))
    if (line.failures === 0 || line.n === 0) fail(`row ${row.row} (${row.title}) does not find: ${line.planted}`)
  }
}

function fail(reason: string): void {
  console.error(reason)
  process.exitCode = 1
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  await main().catch(error => fail(error.message))
}
