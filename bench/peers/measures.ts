import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { seededRandom } from '../../src/base/random.ts'

/** What a measure is of, and how it is taken. */
export interface Measure {
  unit: 'tokens/s' | 's' | 'GB'
  /** Which is better. */
  better: 'more' | 'less'
  /** Measures of one group are taken one after the other in one process. */
  group: string
  /** No peer takes it: it is compared with this value, which comes from the same run. */
  against?: string
  /** Runs only where it is named. */
  slow?: true
}

const speed = { unit: 'tokens/s', better: 'more' } as const

export const measures: Readonly<Record<string, Measure>> = {
  decode: { ...speed, group: 'short' },
  'prefill-64': { ...speed, group: 'short' },
  'prefill-512': { ...speed, group: 'short' },
  'prefill-2048': { ...speed, group: 'prefill-2048' },
  'prefill-8192': { ...speed, group: 'prefill-8192', slow: true },
  /** From the start of the process to the first token behind a prompt of `startPrompt` tokens. */
  start: { unit: 's', better: 'less', group: 'start' },
  /** The same with nothing of the files in the page cache, against reading them from the disk. */
  'start-cold': { unit: 's', better: 'less', group: 'start-cold', against: 'disk', slow: true },
  /** Private memory with a context of `memoryContext` tokens. */
  memory: { unit: 'GB', better: 'less', group: 'memory' },
  'decode-32k': { ...speed, group: 'decode-32k', against: 'decode-0' },
  'sessions-8': { ...speed, group: 'sessions-8', against: 'sessions-1' },
}

export const startPrompt = 50
export const memoryContext = 4096
export const decodePrompt = 16
export const decodeTokens = 64
export const longContext = 32_768
export const manySessions = 8

/** Tokens of the prompt that `prefill-N` measures. */
export const prefillLength = (name: string): number | undefined =>
  name.startsWith('prefill-') ? Number(name.slice('prefill-'.length)) : undefined

/** Measures by name, and what else a run tells: `disk`, `distinct-experts`, `memory-mapped`, … */
export type Values = Record<string, number>

/** Where weights and peers lie: outside the clone, for they take some 30 GiB. */
export function benchFolder(env = process.env): string {
  return env.TUTTI_BENCH_DIR ?? join(env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'tutti', 'bench')
}

/** Where our matrices of 8 bits are kept: apart from those of other uses, so that it is known which files are read. */
export const cacheFolder = (): string => join(benchFolder(), 'cache')

/** Ordinary tokens, the same for each side. */
export function prompt(length: number, seed: number, vocabSize: number): number[] {
  const random = seededRandom(seed)
  return Array.from({ length }, () => 300 + Math.floor(random() * (Math.min(vocabSize, 199998) - 300)))
}

/** Seconds since a moment of the wall clock, in another process perhaps. */
export const secondsSince = (epochMs: number): number => (performance.timeOrigin + performance.now() - epochMs) / 1000

/** GB of this process: what no file backs and so is taken from the machine for good, and what files back. Linux only. */
export function residentGigabytes(): { memory: number; 'memory-mapped': number } {
  const text = readFileSync('/proc/self/smaps_rollup', 'utf8')
  const gigabytes = (field: string) =>
    (Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0) * 1024) / 1e9
  return {
    memory: gigabytes('Anonymous') + gigabytes('Private_Hugetlb') + gigabytes('Shared_Hugetlb'),
    'memory-mapped': gigabytes('Rss') - gigabytes('Anonymous'), // huge pages of hugetlbfs are in neither
  }
}
