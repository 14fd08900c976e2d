/**
 * Builds the CPU device's addon, native/build/<platform>-<arch>/tutti.node: the kernels once per instruction set, and
 * the runtime. Runs in `prepare`, skips what is unchanged. Without a C compiler, or where it fails, it says so and ends
 * well: everything else works on the reference device.
 *
 *   node --conditions=tutti-source scripts/build-native.ts [--check-target aarch64]
 *
 * `CC` names the compiler. `--check-target` only compiles, into a temporary folder, and fails where the compiler does.
 */
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, globSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism, tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

const avx2 = '-mavx2 -mfma -mf16c -mbmi -mbmi2'
const vnni = `${avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512vbmi`
const bf16 = `${vnni} -mavx512bf16`
/** The portable kernels are a third of the compiler's work at -O3, and few CPUs are left that run them. */
const portable = '-O2 -ftree-vectorize'
/** Compiler flags of each instruction set, by its name; native/levels.c says which CPUs have it. */
export const levels: Record<string, Record<string, string>> = {
  x64: {
    baseline: portable,
    avx2,
    'avx512-vnni': vnni,
    'avx512-bf16': bf16,
    amx: `${bf16} -mamx-tile -mamx-int8 -mamx-bf16`,
  },
  arm64: { baseline: portable, neon: '-march=armv8.2-a+dotprod+fp16', 'neon-i8mm': '-march=armv8.6-a+i8mm+bf16+fp16' },
}
const flags =
  '-O3 -std=gnu11 -fPIC -fvisibility=hidden -ffp-contract=fast -fno-math-errno -fno-trapping-math ' +
  '-Wall -Wextra -Werror=implicit-function-declaration -pthread'
const linkFlags = process.platform === 'darwin' ? '-bundle -undefined dynamic_lookup' : '-shared -pthread -lm'
const runtime = ['addon', 'chores', 'cores', 'device', 'levels', 'memory', 'pool', 'program', 'values']
const cure =
  process.platform === 'darwin' ? 'xcode-select --install' : 'on Debian and Ubuntu: apt-get install gcc libc6-dev'

interface Job {
  output: string
  source: string
  flags: string[]
}
interface Ran {
  ok: boolean
  output: string
}

/** Builds the addon if it is out of date, and tells how that went. */
export async function buildNative(): Promise<void> {
  if (!(process.arch in levels) || process.platform === 'win32') return
  const compiler = words(process.env.CC || 'cc')
  const version = await run([...compiler, '--version'])
  if (!version.ok) {
    console.error(
      `no C compiler "${compiler.join(' ')}": tutti will compute on its slow reference device. ` +
        `Install one (${cure}), then "npm run prepare".`,
    )
    return
  }
  const folder = join(root, `native/build/${process.platform}-${process.arch}`)
  const stamp = join(folder, 'tutti.sha256')
  const hash = hashOf(version.output, compiler)
  if (existsSync(join(folder, 'tutti.node')) && existsSync(stamp) && readFileSync(stamp, 'utf8') === hash) return
  mkdirSync(folder, { recursive: true })
  const fresh = mkdtempSync(join(folder, 'fresh-'))
  const log = join(folder, 'failed.log')
  try {
    const failure = await compile(compiler, process.arch, fresh, true)
    rmSync(log, { force: true })
    if (failure === undefined) {
      renameSync(join(fresh, 'tutti.node'), join(folder, 'tutti.node'))
      writeFileSync(stamp, hash)
    } else {
      writeFileSync(log, failure)
      rmSync(join(folder, 'tutti.node'), { force: true }) // of other sources: its words may mean something else
      console.error(
        `the kernels do not compile with "${compiler.join(' ')}" (its messages are in ${relative(root, log)}): tutti ` +
          `will compute on its slow reference device. Install GCC 12 or Clang 14 or newer (${cure}), or name one in CC, ` +
          'then "npm run prepare".',
      )
    }
  } finally {
    rmSync(fresh, { recursive: true, force: true })
  }
}

/** Compiles and, if asked, links into `folder`. Resolves to the compiler's messages if it fails. */
async function compile(compiler: string[], arch: string, folder: string, link: boolean): Promise<string | undefined> {
  const known = await knownLevels(compiler, arch, folder)
  const jobs = [...kernelJobs(known), ...runtimeJobs(known.map(([name]) => name))]
  const show = process.stderr.isTTY
  let numDone = 0
  let failure: string | undefined
  const worker = async () => {
    for (let job = jobs.shift(); job && failure === undefined; job = jobs.shift()) {
      const args = [...words(flags), ...job.flags, '-c', join(root, job.source), '-o', join(folder, job.output)]
      const ran = await run([...compiler, ...args])
      if (!ran.ok) failure ??= `${compiler.join(' ')} ${args.join(' ')}\n${ran.output}`
      else if (ran.output.trim() !== '') process.stderr.write(`${ran.output}\n`)
      if (show) process.stderr.write(`\r\x1b[Kcompiling kernels: ${++numDone} of ${numDone + jobs.length}`)
    }
  }
  const objects = jobs.map(job => join(folder, job.output))
  await Promise.all(Array.from({ length: availableParallelism() }, worker))
  if (show) process.stderr.write('\r\x1b[K')
  if (failure !== undefined || !link) return failure
  const linked = await run([...compiler, ...objects, ...words(linkFlags), '-o', join(folder, 'tutti.node')])
  return linked.ok ? undefined : linked.output
}

/** The instruction sets whose flags the compiler knows. */
async function knownLevels(compiler: string[], arch: string, folder: string): Promise<[string, string][]> {
  const source = join(folder, 'empty.c')
  writeFileSync(source, 'int nothing;\n')
  const all = Object.entries(levels[arch])
  const known = await Promise.all(
    all.map(async ([name, level]) => {
      const ran = await run([
        ...compiler,
        '-Werror',
        ...words(level),
        '-c',
        source,
        '-o',
        join(folder, `try-${name}.o`),
      ])
      return ran.ok
    }),
  )
  return all.filter((_, i) => known[i] || all[i][0] === 'baseline')
}

/** The slowest first. */
function kernelJobs(known: [string, string][]): Job[] {
  return known.toReversed().map(([name, level]) => ({
    output: `kernels-${name}.o`,
    source: 'native/kernels.c',
    flags: [...words(level), `-DTUTTI_LEVEL=${name.replaceAll('-', '_')}`, `-DTUTTI_LEVEL_NAME="${name}"`],
  }))
}

function runtimeJobs(names: string[]): Job[] {
  const headers = join(dirname(createRequire(import.meta.url).resolve('node-api-headers/package.json')), 'include')
  const defines = names.map(name => `-DTUTTI_HAS_${name.replaceAll('-', '_')}`)
  return runtime.map(name => ({ output: `${name}.o`, source: `native/${name}.c`, flags: [`-I${headers}`, ...defines] }))
}

function hashOf(version: string, compiler: string[]): string {
  const sources = globSync(['native/*.[ch]', 'src/kernels/**/*.[ch]', 'scripts/build-native.ts'], { cwd: root }).sort()
  const hash = createHash('sha256').update(version).update(compiler.join('\0'))
  for (const file of [...sources, 'node_modules/node-api-headers/package.json']) {
    hash.update(`\0${file}\0`).update(readFileSync(join(root, file)))
  }
  return hash.digest('hex')
}

function words(text: string): string[] {
  return text.split(' ').filter(word => word !== '')
}

function run([command, ...args]: string[]): Promise<Ran> {
  return new Promise(resolve => {
    execFile(command, args, { maxBuffer: 2 ** 26 }, (error, stdout, stderr) => {
      resolve({ ok: error === null, output: stdout + stderr + (error && !stdout && !stderr ? error.message : '') })
    })
  })
}

async function checkTarget(target: string): Promise<void> {
  const compiler = words(process.env.CC || `${target}-linux-gnu-gcc`)
  const arch = target === 'aarch64' ? 'arm64' : target
  const folder = mkdtempSync(join(tmpdir(), 'tutti-check-'))
  try {
    const failure = await compile(compiler, arch, folder, false)
    console.log(failure ?? `compiles for ${target}: ${globSync('kernels-*.o', { cwd: folder }).sort().join(' ')}`)
    if (failure !== undefined) process.exitCode = 1
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const at = process.argv.indexOf('--check-target')
  if (at > 0) await checkTarget(process.argv[at + 1])
  else await buildNative()
}
