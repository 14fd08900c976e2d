import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { globSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const [compiler, ...compilerFlags] = (process.env.CC || 'cc').split(' ')
const folder = mkdtempSync(join(tmpdir(), 'tutti-runtime-'))
after(() => rmSync(folder, { recursive: true, force: true }))

/** Everything of the runtime but what speaks to JavaScript and what names the kernels. */
const sources = [
  'test/native/runtime-harness.c',
  ...globSync('native/*.c', { cwd: root }).filter(file => !/(addon|levels|kernels)\.c$/.test(file)),
]

function compile(output: string, files: string[], flags: string[]) {
  const args = [...compilerFlags, '-std=gnu11', '-O1', '-g', '-pthread', ...flags, ...files, '-lm', '-o', output]
  return spawnSync(compiler, args, { cwd: root, encoding: 'utf8' })
}

/** Why a program with these flags cannot be built or run here; undefined if it can. */
function obstacle(flags: string[]): string | undefined {
  if (process.platform === 'win32') return 'the runtime is for POSIX systems'
  const [source, program] = [join(folder, 'empty.c'), join(folder, 'empty')]
  writeFileSync(source, 'int main(void) { return 0; }\n')
  if (compile(program, [source], flags).status !== 0) return `${compiler} cannot build with ${flags.join(' ')}`
  return spawnSync(program).status === 0 ? undefined : `programs built with ${flags.join(' ')} do not run here`
}

describe('threads, memory and programs bear storms, stops at any moment and hostile words', {
  concurrency: false,
}, () => {
  const sanitizers = {
    'addresses and undefined behaviour': ['-fsanitize=address,undefined', '-fno-sanitize-recover=all'],
    'data races': ['-fsanitize=thread'],
  }
  for (const [name, flags] of Object.entries(sanitizers)) {
    const skip = obstacle(flags) ?? false
    test(`watched for ${name}`, { skip }, () => {
      const program = join(folder, flags[0].slice(flags[0].indexOf('=') + 1))
      const built = compile(program, sources, [...flags, '-Wall', '-Wextra', '-Werror'])
      assert.equal(built.status, 0, built.stderr)
      const machines = `${program}-machines`
      mkdirSync(machines)
      const seed = process.env.TUTTI_SEED ?? '1'
      const scale = process.env.TUTTI_SCALE ?? '1'
      const ran = spawnSync(program, [seed, scale, machines], { encoding: 'utf8', timeout: 300_000 })
      assert.equal(ran.stdout, 'well\n', `seed ${seed}: ${ran.stderr}`)
      assert.equal(ran.status, 0, ran.stderr)
    })
  }
})
