import { showBytes } from '../model/memory.ts'
import type { Diagnosis, Need, Prediction } from './doctor.ts'
import type { Machine } from './doctor-machine.ts'
import type { Speeds } from './doctor-measure.ts'

export interface Report {
  readonly machine: Machine
  /** Of the widths of the published models, or of the first model otherwise. */
  readonly speeds?: Speeds
  readonly models: readonly Diagnosis[]
  /** What would help any model here. */
  readonly advice: readonly string[]
}

/** The report as a person reads it. */
export function showReport({ machine, speeds, models, advice }: Report): string {
  const paragraphs = [
    ['This machine', ...showMachine(machine, speeds)],
    ...models.map(showModel),
    ...(advice.length > 0 ? [['What would make any model faster here', ...advice.map(item)]] : []),
    [
      'A token is some three quarters of an English word. docs/models.md says which model and which options suit which machine.',
    ],
  ]
  return paragraphs.map(lines => `${lines.join('\n')}\n`).join('\n')
}

const item = (text: string) => `  - ${text}`
const row = (name: string, text: string) => `  ${name.padEnd(19)}${text}`

function showMachine(machine: Machine, speeds?: Speeds): string[] {
  const { kernels, noKernels, memory } = machine
  const { totalBytes, availableBytes, limitBytes } = memory
  const limit = limitBytes === undefined ? '' : `; this process may use ${showBytes(limitBytes)}`
  return [
    row('processor', `${machine.cpu}, ${showCpus(machine)}`),
    kernels
      ? row('native kernels', `for ${kernels.levels.join(', ')}; ${numbered(kernels.threads, 'thread')} by default`)
      : row('native kernels', `none: ${noKernels}`),
    row('memory', `${showBytes(totalBytes)}, ${showBytes(availableBytes)} available${limit}`),
    ...(speeds
      ? [
          row(
            'memory speed',
            `${gigabytes(speeds.reads.small)} in pages of 4 KiB, ${gigabytes(speeds.reads.huge)} in 2 MiB`,
          ),
        ]
      : []),
  ]
}

function showCpus({ logicalCpus, allowedCpus, allowedCores, cpuQuota }: Machine): string {
  const parts = [numbered(logicalCpus, 'CPU')]
  if (allowedCpus !== undefined && allowedCores !== undefined) {
    parts.push(`${allowedCpus} of them usable here (${numbered(allowedCores, 'core')})`)
  }
  if (cpuQuota !== undefined) parts.push(`limited to the time of ${cpuQuota}`)
  return parts.join(', ')
}

function showModel({ name, path, device, needs, chosen, refusal, speed, why, advice }: Diagnosis): string[] {
  return [
    `${name}${path === undefined ? ` (tutti pull ${name} downloads it)` : ` in ${path}`}: ${headline(chosen.verdict, speed)}`,
    ...(refusal === undefined
      ? [row('would run on', device), ...why.map(reason => row('', reason)), row('needs', showParts(chosen))]
      : [row('loading would say', refusal)]),
    ...(speed ? showSpeed(speed, path !== undefined) : []),
    ...needs.map((need, i) => row(i === 0 ? 'by context' : '', showNeed(need))),
    ...(advice.length > 0 ? ['  what would help', ...advice.map(text => `  ${item(text)}`)] : []),
  ]
}

function headline(verdict: Need['verdict'], speed?: Prediction): string {
  if (verdict === 'refused') return 'too large for this machine’s free memory'
  const [first] = speed?.decode ?? []
  const expected = first ? `, expect about ${showRate(first.tokensPerSecond)}` : ''
  if (verdict === 'pages') return `runs, but reads some of its weights from the disk again and again${expected}`
  return first ? `fits${expected}` : 'fits, but runs some hundred times slower than with native kernels'
}

function showParts({ plan }: Need): string {
  const { weights, cache, scratch, garbage, mapped } = plan
  const parts = `${showBytes(weights)} for weights, ${showBytes(cache)} for the cache, ${showBytes(scratch + garbage)} to work in`
  return mapped > 0 ? `${parts}, and ${showBytes(mapped)} of its files in memory` : parts
}

const verdicts = { fits: 'fits', pages: 'reads from the disk', refused: 'refused' } as const

function showNeed({ contextLength, plan, verdict }: Need): string {
  const { total, mapped } = plan
  const files = mapped > 0 ? ` + ${showBytes(mapped)} of files` : ''
  return `${String(contextLength).padStart(6)} tokens: ${showBytes(total).padStart(8)}${files}: ${verdicts[verdict]}`
}

function showSpeed({ decode, prefill, disk }: Prediction, isThere: boolean): string[] {
  const answers = decode.map(({ context, tokensPerSecond }) => {
    return `${showRate(tokensPerSecond)}${context === 0 ? '' : ` behind ${context} others`}`
  })
  const prompts = prefill.map(({ tokens, tokensPerSecond }) => {
    return `${tokens} tokens in ${round(tokens / tokensPerSecond)} s (${showRate(tokensPerSecond)})`
  })
  return [
    row('writes', answers.join(', ')),
    ...(prompts.length > 0 ? [row('reads prompts', prompts.join(', '))] : []),
    ...(disk ? [row('disk', showDisk(disk, isThere))] : []),
  ]
}

function showDisk({ bytesPerSecond, measured }: NonNullable<Prediction['disk']>, isThere: boolean): string {
  const speed = gigabytes(bytesPerSecond)
  if (measured) return `measured: reads of the model’s files gave ${speed} just now`
  const cure = isThere
    ? 'the model’s files are not written yet (they read as zeros), so there was nothing to measure'
    : 'give the model’s folder to have it measured'
  return `assumed: ${speed}; ${cure}`
}

/** `9.3 tokens/s`, or `12 s a token`. */
export function showRate(tokensPerSecond: number): string {
  if (tokensPerSecond < 0.5) return `${round(1 / tokensPerSecond)} s a token`
  return `${round(tokensPerSecond)} tokens/s`
}

const gigabytes = (bytesPerSecond: number): string => `${round(bytesPerSecond / 1e9)} GB/s`
const round = (value: number): string => (value >= 9.95 ? value.toFixed(0) : value.toPrecision(2))
const numbered = (n: number, noun: string): string => `${n} ${noun}${n === 1 ? '' : 's'}`
