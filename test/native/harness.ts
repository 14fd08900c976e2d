import { execFile } from 'node:child_process'
import { globSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const [compiler, ...compilerFlags] = (process.env.CC || 'cc').split(' ')

/** Every finding ends the program. */
export const sanitizers = {
  'addresses and undefined behaviour': ['-fsanitize=address,undefined', '-fno-sanitize-recover=all'],
  'data races': ['-fsanitize=thread'],
} as const

/** The stand-alone programs in this folder, and what is compiled with each. */
const sources = {
  linear: ['test/native/linear-harness.c'],
  attention: ['test/native/attention-harness.c'],
  experts: ['test/native/experts-harness.c'],
  /** Everything of the runtime but what speaks to JavaScript and what names the kernels. */
  runtime: [
    'test/native/runtime-harness.c',
    ...globSync('native/*.c', { cwd: root }).filter(file => !/(addon|levels|kernels|values)\.c$/.test(file)),
  ],
}
export type Harness = keyof typeof sources

interface Ended {
  code: number
  stdout: string
  stderr: string
}

function run(command: string, args: readonly string[], timeout = 300_000): Promise<Ended> {
  return new Promise(resolve => {
    execFile(command, args, { cwd: root, timeout, maxBuffer: 2 ** 26 }, (error, stdout, stderr) => {
      resolve({ code: error ? Number(error.code) || 1 : 0, stdout, stderr })
    })
  })
}

function compile(output: string, files: readonly string[], flags: readonly string[]): Promise<Ended> {
  const args = [...compilerFlags, '-std=gnu11', '-O1', '-pthread', ...flags, ...files, '-lm', '-o', output]
  return run(compiler, args)
}

/** Why a program with these flags cannot be built or run here; undefined if it can. */
export async function obstacle(flags: readonly string[]): Promise<string | undefined> {
  if (process.platform === 'win32') return 'the runtime is for POSIX systems'
  const folder = mkdtempSync(join(tmpdir(), 'tutti-empty-'))
  try {
    const [source, program] = [join(folder, 'empty.c'), join(folder, 'empty')]
    writeFileSync(source, 'int main(void) { return 0; }\n')
    if ((await compile(program, [source], flags)).code !== 0) return `${compiler} cannot build with ${flags.join(' ')}`
    return (await run(program, [])).code === 0 ? undefined : `programs built with ${flags.join(' ')} do not run here`
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/**
 * Builds a harness with these flags and runs what of it sanitizers can run in seconds. `failures`: what it found, or what
 * it said when it was ended.
 */
export async function runHarness(
  harness: Harness,
  flags: readonly string[],
): Promise<{ cases: number; failures: string[] }> {
  const folder = mkdtempSync(join(tmpdir(), `tutti-${harness}-`))
  try {
    const program = join(folder, harness)
    const built = await compile(program, sources[harness], flags)
    if (built.code !== 0) return { cases: 0, failures: [`it does not compile: ${built.stderr}`] }
    const { code, stdout, stderr } = await run(program, argumentsOf(harness, folder))
    const [, cases, failures] = /^cases (\d+) failures (\d+)\n$/m.exec(stdout) ?? []
    if (code === 0 && failures === '0') return { cases: Number(cases), failures: [] }
    const told = stdout.split('\n').filter(line => line.startsWith('FAILED') || line.includes(': FAILED'))
    // A sanitizer's own line says what and where; without one whatever was said last must do.
    const sanitizer = stderr.split('\n').filter(line => /runtime error|^SUMMARY/.test(line))
    const reasons = [...told.slice(0, 5), ...sanitizer.slice(0, 2)]
    return { cases: Number(cases ?? 1), failures: reasons.length > 0 ? reasons : [`it ended with ${code}: ${stderr}`] }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function argumentsOf(harness: Harness, folder: string): string[] {
  if (harness !== 'runtime') return ['quick']
  const machines = join(folder, 'machines')
  mkdirSync(machines)
  return [process.env.TUTTI_SEED ?? '1', process.env.TUTTI_SCALE ?? '1', machines]
}
