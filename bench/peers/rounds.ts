import type { DeviceOptions } from '../../src/device/options.ts'
import type { ModelConfig } from '../../src/model/config.ts'
import { type Worth, worthOf } from './limit.ts'
import { measures, type Values } from './measures.ts'

/** One process's values, and plain reads of memory around it. */
export interface Run {
  side: 'ours' | 'peer'
  values: Values
  /** Bytes a second of huge pages, right before and after. */
  plainRead: readonly [before: number, after: number]
  /** Bytes a second of the mapped weights, right before: of ours, where a limit follows from it. */
  mappedRead?: number
}

/** What all results of one call have in common. */
export interface Setting {
  cpu: string
  /** Name of the weights' folder. */
  model: string
  config: ModelConfig
  options: DeviceOptions
  /** Of the clone. */
  commit: string
}

/** What is reported of a measure; the first seven fields are what a machine reads. */
export interface Result {
  measure: string
  ours: number
  peer: number
  /** Above 1 we are better, also where less is better. */
  ratio: number
  /** `ours` if memory were read at the speed of a plain read of the same run, and nothing else took time. */
  limit: number | null
  unit: string
  cpu: string
  /** Whose value `peer` is: a peer's name, or the value of our own that the measure is compared with. */
  against: string
  /** Smallest and largest value of either side. */
  spread: { ours: readonly [number, number]; peer: readonly [number, number] }
  /** GB/s, smallest and largest around all runs. */
  plainRead: readonly [number, number]
  rounds: number
  model: string
  date: string
  commit: string
  options: DeviceOptions
  /** What is reported of this measure alone. */
  more: Readonly<Record<string, number>>
}

export const maxPlainReadChange = 0.1

/** Other work took memory's time while this one ran: its values say nothing. */
export function isVoid({ plainRead: [before, after] }: Run): boolean {
  return Math.abs(after / before - 1) > maxPlainReadChange
}

/** Measures with what they are taken with: those of one group and one peer run together. `-ik` names the second peer. */
export interface Group {
  peer: 'node-llama-cpp' | 'ik_llama.cpp' | 'none'
  /** Without suffix. */
  names: string[]
}

export function groupsOf(names: readonly string[]): Group[] {
  const groups = new Map<string, Group>()
  for (const name of names) {
    const isIk = name.endsWith('-ik')
    const base = isIk ? name.slice(0, -'-ik'.length) : name
    const measure = measures[base]
    if (!measure || (isIk && measure.against)) {
      throw new Error(`there is no measure ${name}; there are ${allNames().join(', ')}`)
    }
    const peer = measure.against ? 'none' : isIk ? 'ik_llama.cpp' : 'node-llama-cpp'
    const key = `${peer} ${measure.group}`
    const group = groups.get(key) ?? { peer, names: [] }
    if (!group.names.includes(base)) group.names.push(base)
    groups.set(key, group)
  }
  return [...groups.values()]
}

export function allNames(): string[] {
  const names = Object.keys(measures)
  return [...names, ...names.filter(name => !measures[name].against).map(name => `${name}-ik`)]
}

/** What runs where nothing is named. */
export const usualNames = (): string[] => allNames().filter(name => !measures[name.replace(/-ik$/, '')].slow)

/** What a group's runs need of the world: replaced in tests. */
export interface Bench {
  /** Runs one side once. */
  take(side: Run['side']): Promise<Run>
  /** Keeps a finished run for a later call. */
  keep(run: Run): void
  /** Tells of a run that is taken, was kept or is void. */
  tell(run: Run, remark?: string): void
}

export const maxVoidRuns = 3

/**
 * Runs in turn, ours first, until each side has `rounds` of them; `kept` are those of an interrupted call. One that is
 * void is repeated, but a machine that is never quiet is no place to measure.
 */
export async function takeRuns(
  group: Group,
  rounds: number,
  kept: readonly Run[],
  bench: Bench,
  noisy = false,
): Promise<Run[]> {
  const sides: Run['side'][] = group.peer === 'none' ? ['ours'] : ['ours', 'peer']
  const runs = kept.slice(0, rounds * sides.length)
  for (const run of runs) bench.tell(run, 'kept')
  for (let numVoid = 0; runs.length < rounds * sides.length; ) {
    const run = await bench.take(sides[runs.length % sides.length])
    if (!noisy && isVoid(run)) {
      bench.tell(run, 'void: memory was read at another speed before than after')
      if (++numVoid === maxVoidRuns) throw new Error(`${numVoid} runs in a row were void: ${quietCure}`)
      continue
    }
    numVoid = 0
    runs.push(run)
    bench.keep(run)
    bench.tell(run)
  }
  return runs
}

const quietCure = 'something else takes this machine’s memory; stop it, or count every run with --noisy'

export function resultOf(name: string, peer: Group['peer'], runs: readonly Run[], setting: Setting): Result {
  const { unit, better, against } = measures[name]
  const ofOurs = runs.filter(run => run.side === 'ours')
  const ours = ofOurs.map(run => run.values[name])
  const ofPeer = against ? ofOurs : runs.filter(run => run.side === 'peer')
  const theirs = ofPeer.map(run => run.values[against ?? name])
  const ratio = median(ours) / median(theirs)
  const worths = ofOurs.flatMap(run => worth(name, run, setting) ?? [])
  return {
    measure: peer === 'ik_llama.cpp' ? `${name}-ik` : name,
    ours: round(median(ours)),
    peer: round(median(theirs)),
    ratio: round(better === 'more' ? ratio : 1 / ratio),
    limit: worths.length > 0 ? round(median(worths.map(({ limit }) => limit))) : null,
    unit,
    cpu: setting.cpu,
    against: against ?? peer,
    spread: { ours: range(ours), peer: range(theirs) },
    plainRead: range(runs.flatMap(({ plainRead }) => plainRead).map(read => read / 1e9)),
    rounds: ours.length,
    model: setting.model,
    date: new Date().toISOString().slice(0, 10),
    commit: setting.commit,
    options: setting.options,
    more: medians([...worths, ...extras(name, ofOurs, ofPeer)]),
  }
}

/** With the share of the limit that was reached: of each run by its own plain read. */
function worth(name: string, run: Run, { config, options }: Setting): (Worth & { ofLimit: number }) | undefined {
  if (run.mappedRead === undefined) return undefined
  const speeds = { own: (run.plainRead[0] + run.plainRead[1]) / 2, mapped: run.mappedRead }
  const of = worthOf(name, run.values, speeds, config, options)
  return of && { ...of, ofLimit: run.values[name] / of.limit }
}

/** What a run tells beside its measure. */
function extras(name: string, ours: readonly Run[], peer: readonly Run[]): Record<string, number>[] {
  if (name === 'sessions-8') return ours.map(({ values }) => ({ distinctExperts: values['distinct-experts'] }))
  if (name === 'start-cold') {
    return ours.map(({ values }) => ({ diskBefore: values['disk-before'], diskAfter: values['disk-after'] }))
  }
  if (name !== 'memory') return []
  return [
    ...ours.map(({ values }) => ({ mapped: values['memory-mapped'] })),
    ...peer.map(({ values }) => ({ peerMapped: values['memory-mapped'] })),
  ]
}

/** Field by field, without the limit, which has a place of its own. */
function medians(rows: readonly object[]): Record<string, number> {
  const columns = new Map<string, number[]>()
  for (const [key, value] of rows.flatMap(row => Object.entries(row))) {
    if (key !== 'limit') columns.set(key, [...(columns.get(key) ?? []), value])
  }
  return Object.fromEntries([...columns].map(([key, values]) => [key, round(median(values))]))
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

const range = (values: readonly number[]) => [round(Math.min(...values)), round(Math.max(...values))] as const
const round = (value: number): number => Number(value.toPrecision(4))
