// Runs the npm scripts. Plain JavaScript of the oldest kind, so that an old Node can still say what it lacks.
import { spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { availableParallelism, constants } from 'node:os'
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

const [task, ...args] = process.argv.slice(2)
const node = (...rest) => [
  process.execPath,
  '--conditions=tutti-source',
  '--disable-warning=ExperimentalWarning',
  ...rest,
]
const tool = path => [process.execPath, join(root, 'node_modules', path)]
const tsc = config => [...tool('typescript/bin/tsc'), '-p', config]
/** Files given as arguments take the place of `globs`; flags of Node have to stand before either. */
const tests = (flags, ...globs) => {
  const files = args.filter(arg => !arg.startsWith('-'))
  return node('--test', ...flags, ...args.filter(arg => arg.startsWith('-')), ...(files.length > 0 ? files : globs))
}
const prepare = node('scripts/build.ts')
const tasks = {
  prepare: [prepare],
  start: [node('src/cli/start.ts', ...args)],
  test: [
    tests(
      [`--test-concurrency=${availableParallelism()}`],
      'src/**/*.test.ts',
      'test/**/*.test.ts',
      'scripts/**/*.test.ts',
      'bench/**/*.test.ts',
    ),
  ],
  'test:long': [tests(['--test-timeout=7200000'], 'src/**/*.long.ts', 'test/**/*.long.ts')],
  check: [
    tsc('tsconfig.core.json'),
    tsc('tsconfig.json'),
    tsc('tsconfig.web.json'),
    [...tool('@biomejs/biome/bin/biome'), 'check', '--error-on-warnings', '.'],
    node('scripts/check-layers.ts'),
    node('scripts/check-docs.ts'),
  ],
  'check:package': [node('--test', 'scripts/check-package.ts')],
  board: [node('scripts/board.ts', ...args)],
  bench: [node('scripts/bench.ts', ...args)],
  'bench:peers': [node('bench/peers/run.ts', ...args)],
}

let child
process.on('SIGINT', () => {}) // Ctrl-C reaches the child from the terminal too, and the child decides what it means
for (const signal of ['SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))

/** Resolves to the exit code, as a shell would give it. */
function run([command, ...rest]) {
  child = spawn(command, rest, { cwd: root, stdio: 'inherit' })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => resolve(signal ? 128 + constants.signals[signal] : code))
  })
}

if (!(task in tasks)) throw new Error(`no task ${task}: there are ${Object.keys(tasks).join(', ')}`)
const built = existsSync(join(root, 'src/tokenizer/vocabulary.generated.bin'))
for (const command of built ? tasks[task] : [prepare, ...tasks[task]]) {
  const code = await run(command)
  if (code !== 0) process.exit(code)
}
