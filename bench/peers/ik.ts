import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { benchFolder, decodeTokens, prefillLength, type Values } from './measures.ts'

/** One row of what llama-bench prints. */
export interface BenchRow {
  n_prompt: number
  n_gen: number
  samples_ts: number[]
}

/** ik_llama.cpp's side: its own llama-bench for speeds, a small program of ours for the rest. */
export async function measureIk(
  gguf: string,
  names: readonly string[],
  lastLine: (command: string, args: readonly string[]) => Promise<Values>,
): Promise<Values> {
  const folder = join(benchFolder(), 'ik')
  const probe = join(folder, 'ik-probe')
  if (!existsSync(probe)) throw new Error(`there is no ${probe}: run bench/peers/setup ik, some 40 minutes`)
  const threads = String(availableParallelism())
  const [name] = names
  if (name === 'start') return lastLine(probe, [gguf, threads, name, String(Date.now())])
  if (name === 'memory') return lastLine(probe, [gguf, threads, name])
  const args = ['-m', gguf, '-t', threads, '-r', '1', '-o', 'json', ...benchSettings, ...benchTests(names)]
  const text = execFileSync(join(folder, 'build', 'bin', 'llama-bench'), args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  return benchValues(names, JSON.parse(text))
}

/** Flash attention, with which it is fastest, and no warm-up, which reads all experts and takes minutes. */
const benchSettings = ['-fa', '1', '-w', '0']

/** -p and -n for the measures, with 0 for what is not asked for: llama-bench would fill in its own. */
export function benchTests(names: readonly string[]): string[] {
  const lengths = names.map(prefillLength).filter(length => length !== undefined)
  const prompts = lengths.length > 0 ? lengths.join(',') : '0'
  return ['-p', prompts, '-n', names.includes('decode') ? String(decodeTokens) : '0']
}

export function benchValues(names: readonly string[], rows: readonly BenchRow[]): Values {
  return Object.fromEntries(
    names.map(name => {
      const length = prefillLength(name)
      const row = rows.find(({ n_prompt, n_gen }) => (length === undefined ? n_gen > 0 : n_prompt === length))
      if (!row) throw new Error(`llama-bench printed nothing of ${name}: ${JSON.stringify(rows)}`)
      return [name, row.samples_ts[0]]
    }),
  )
}
