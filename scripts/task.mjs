// Runs the npm scripts. Plain JavaScript of the oldest kind, so that an old Node can still say what it lacks.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const needed = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).engines.node.slice(2)
const [haveMajor, haveMinor] = process.versions.node.split('.').map(Number)
const [needMajor, needMinor] = needed.split('.').map(Number)
if (haveMajor < needMajor || (haveMajor === needMajor && haveMinor < needMinor)) {
  console.error(
    `tutti needs Node ${needed} or newer, and this is ${process.versions.node}: run "npm ci" without --ignore-scripts ` +
      '(it brings Node 24 for the npm scripts), or install a newer Node.',
  )
  process.exit(1)
}

const source = ['--conditions=tutti-source', '--disable-warning=ExperimentalWarning']
const node = (...args) => [process.execPath, ...source, ...args]
const bin = name => join(root, 'node_modules', '.bin', name)
const tasks = {
  prepare: [node('scripts/build.ts')],
  start: [node('src/cli/start.ts')],
  test: [node('--test', 'src/**/*.test.ts', 'test/**/*.test.ts', 'scripts/**/*.test.ts')],
  'test:long': [node('--test', '--test-timeout=7200000', 'src/**/*.long.ts', 'test/**/*.long.ts')],
  check: [
    [bin('tsc'), '-p', 'tsconfig.core.json'],
    [bin('tsc'), '-p', 'tsconfig.json'],
    [bin('tsc'), '-p', 'tsconfig.web.json'],
    [bin('biome'), 'check', '--error-on-warnings', '.'],
    node('scripts/check-layers.ts'),
    node('scripts/check-docs.ts'),
  ],
  board: [node('scripts/board.ts')],
  bench: [node('scripts/bench.ts')],
}

const [task, ...args] = process.argv.slice(2)
for (const [command, ...rest] of tasks[task]) {
  const { status, signal, error } = spawnSync(command, [...rest, ...args], { cwd: root, stdio: 'inherit' })
  if (error) throw error
  if (status !== 0) process.exit(status ?? (signal === 'SIGINT' ? 130 : 1))
}
