/**
 * Runs benches, the files *.bench.ts in src/ and bench/, one after the other, beside the machine they ran on.
 *
 *   npm run bench -- [parts of file names]
 */
import { spawnSync } from 'node:child_process'
import { globSync, readFileSync } from 'node:fs'
import { arch, availableParallelism, cpus, platform, totalmem } from 'node:os'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

/** One line: processor, its instruction sets that matter for kernels, memory, Node. */
export function machine(): string {
  const model = cpus()[0]?.model ?? 'unknown processor'
  const memory = `${Math.round(totalmem() / 2 ** 30)} GiB`
  const sets = instructionSets()
  return [
    `${model} × ${availableParallelism()} threads${sets.length > 0 ? ` (${sets.join(' ')})` : ''}`,
    memory,
    `${platform()} ${arch()}`,
    `Node ${process.versions.node}`,
  ].join(', ')
}

function instructionSets(): string[] {
  if (platform() !== 'linux') return []
  const flags = /^(?:flags|Features)\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1].split(' ') ?? []
  return flags.filter(flag =>
    /^(avx|avx2|avx512(f|bw|_vnni|_bf16)|avx_vnni|amx_\w+|asimddp|i8mm|bf16|sve\w*)$/.test(flag),
  )
}

function main(names: string[]): void {
  const all = globSync(['src/**/*.bench.ts', 'bench/**/*.bench.ts'], { cwd: root }).sort()
  const chosen = all.filter(file => names.length === 0 || names.some(name => file.includes(name)))
  if (chosen.length === 0) {
    console.error(`no bench is called ${names.join(', ')}; there are:\n${all.join('\n')}`)
    process.exitCode = 1
    return
  }
  console.log(machine())
  for (const file of chosen) {
    console.log(`\n${file}`)
    const args = ['--conditions=tutti-source', '--expose-gc', file]
    const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' })
    if (status !== 0) process.exitCode = 1
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) main(process.argv.slice(2))
