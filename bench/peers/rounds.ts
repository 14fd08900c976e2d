import { measures, type Values } from './measures.ts'

/** One process's values, and the plain read of memory right before and after it. */
export interface Run {
  side: 'ours' | 'peer'
  values: Values
  /** Bytes a second. */
  plainRead: readonly [before: number, after: number]
}

/** What is reported of a measure; the first seven fields are what a machine reads. */
export interface Result {
  measure: string
  ours: number
  peer: number
  /** Above 1 we are better, also where less is better. */
  ratio: number
  /** Tokens a second if memory were read at the speed of a plain read and nothing else took time; of decode alone. */
  limit: number | null
  unit: string
  cpu: string
  /** Smallest and largest value of either side. */
  spread: { ours: readonly [number, number]; peer: readonly [number, number] }
  /** GB/s, smallest and largest around all runs. */
  plainRead: readonly [number, number]
  rounds: number
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

export function resultOf(
  name: string,
  peer: Group['peer'],
  runs: readonly Run[],
  machine: { cpu: string; limit: number | null },
): Result {
  const { unit, better, against } = measures[name]
  const valuesOf = (side: Run['side'], value: string) =>
    runs.filter(run => run.side === side).map(run => run.values[value])
  const ours = valuesOf('ours', name)
  const theirs = against ? valuesOf('ours', against) : valuesOf('peer', name)
  const ratio = median(ours) / median(theirs)
  const reads = runs.flatMap(({ plainRead }) => plainRead).map(read => read / 1e9)
  return {
    measure: peer === 'ik_llama.cpp' ? `${name}-ik` : name,
    ours: round(median(ours)),
    peer: round(median(theirs)),
    ratio: round(better === 'more' ? ratio : 1 / ratio),
    limit: name === 'decode' && machine.limit !== null ? round(machine.limit) : null,
    unit,
    cpu: machine.cpu,
    spread: { ours: range(ours), peer: range(theirs) },
    plainRead: range(reads),
    rounds: ours.length,
  }
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

const range = (values: readonly number[]) => [round(Math.min(...values)), round(Math.max(...values))] as const
const round = (value: number): number => Number(value.toPrecision(4))
