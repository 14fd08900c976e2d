import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { makeCheckpoint } from '../../scripts/make-checkpoint.ts'
import { loadNative } from '../../src/device/native.node.ts'
import type { ModelConfig } from '../../src/model/config.ts'
import { publishedConfig } from '../../src/model/published.ts'
import { runNode } from '../planted.ts'
import type { MemoryCase, MemoryFound } from './memory-run.ts'
import type { Row } from './row.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** Most of its memory is weights: 164 MB. */
const wide: ModelConfig = {
  ...publishedConfig('20b'),
  ...{ numHiddenLayers: 4, numExperts: 8, vocabSize: 16_000, hiddenSize: 1024, intermediateSize: 1024 },
  ...{ numAttentionHeads: 16, numKeyValueHeads: 4 },
}
/** Most of its memory are caches: 24 KiB a token in the full layers, 4.5 MiB a snapshot. */
const deep: ModelConfig = {
  ...publishedConfig('20b'),
  ...{ numHiddenLayers: 24, numExperts: 4, vocabSize: 4096, hiddenSize: 256, intermediateSize: 128 },
  ...{ numAttentionHeads: 8, numKeyValueHeads: 8 },
}

type Case = Omit<MemoryCase, 'path' | 'keepIn'> & { model: 'nano' | 'wide' | 'deep'; kept?: 'made' | 'found' }
const few = { decoded: 3 }
/** Those that show a planted bug come first. */
const cases: Case[] = [
  { model: 'deep', device: 'cpu', contextLength: 1600, maxSessions: 4, maxChunk: 64, ...few },
  {
    model: 'wide',
    device: 'cpu',
    precision: 'exact',
    cache: 'q8',
    contextLength: 100,
    maxSessions: 1,
    maxChunk: 64,
    ...few,
  },
  { model: 'deep', device: 'cpu', contextLength: 1400, maxSessions: 1, ...few },
  { model: 'deep', device: 'cpu', cache: 'q8', contextLength: 1200, maxSessions: 3, maxChunk: 64, ...few },
  { model: 'deep', device: 'cpu', precision: 'exact', contextLength: 700, maxSessions: 1, ...few },
  { model: 'wide', device: 'cpu', contextLength: 600, maxSessions: 1, ...few },
  { model: 'wide', device: 'cpu', kept: 'made', contextLength: 600, maxSessions: 1, ...few },
  { model: 'wide', device: 'cpu', kept: 'found', contextLength: 600, maxSessions: 1, ...few },
  { model: 'wide', device: 'cpu', precision: 'exact', contextLength: 520, maxSessions: 1, ...few },
  { model: 'wide', device: 'cpu', cache: 'q8', contextLength: 400, maxSessions: 2, maxChunk: 64, ...few },
  { model: 'nano', device: 'cpu', contextLength: 1000, maxSessions: 8, ...few },
  { model: 'nano', device: 'cpu', precision: 'exact', cache: 'q8', contextLength: 500, maxSessions: 2, decoded: 60 },
  { model: 'nano', device: 'reference', contextLength: 80, maxSessions: 3, maxChunk: 16, ...few },
  { model: 'wide', device: 'reference', contextLength: 6, maxSessions: 1, maxChunk: 3, ...few },
]
const numQuick = 2

const mb = 1e6
/** Config and headers; the smallest of these models has 20 MB. */
const headerBytes = 0.2 * mb
const memory = 'src/model/memory.ts'
const cpu = 'src/device/cpu.node.ts'

export const row: Row = {
  row: 31,
  title: 'the memory that a model will need: private bytes, mapped bytes, and refusal before weights are read',
  obstacle() {
    if (process.platform !== 'linux') return 'only Linux tells what memory is private'
    const native = loadNative()
    return typeof native === 'string' ? `there are no native kernels: ${native}` : undefined
  },
  async run({ quick, part }) {
    const folder = mkdtempSync(join(tmpdir(), 'tutti-memory-'))
    const paths = { nano: join(root, 'models/nano'), wide: join(folder, 'wide'), deep: join(folder, 'deep') }
    const failures: string[] = []
    let n = 0
    try {
      const some = quick && part !== 'kept' ? cases.slice(0, numQuick) : cases
      const asked = some.filter(({ model, kept }) => !part || (kept ? 'kept' : model) === part)
      const isAsked = (name: string) => asked.some(({ model }) => model === name)
      if (isAsked('wide')) await makeCheckpoint(paths.wide, { config: wide, seed: 1, layout: 'openai' })
      if (isAsked('deep')) await makeCheckpoint(paths.deep, { config: deep, seed: 1, layout: 'huggingface' })
      for (const { model, kept, ...rest } of asked) {
        const one = { path: paths[model], ...rest, ...(kept && { keepIn: join(folder, 'kept') }) }
        const name = `${model} ${JSON.stringify({ ...rest, kept })}`
        const found = await measure(one)
        const wrong = wrongs(one, found)
        if (kept === 'made' && !/are kept in/.test(found.kept ?? '')) wrong.push(`matrices: ${found.kept}`)
        if (kept === 'found' && !/are read from/.test(found.kept ?? '')) wrong.push(`matrices: ${found.kept}`)
        failures.push(...wrong.map(wrong => `${name}: ${wrong}`))
        n++
      }
    } finally {
      rmSync(folder, { recursive: true })
    }
    return { n, failures }
  },
  planted: [
    {
      file: memory,
      search: 'numSnapshots * snapshot',
      replace: 'snapshot',
      what: 'one snapshot is planned where there are many',
      part: 'deep',
    },
    {
      file: memory,
      search: 'const numFull = Math.floor(config.numHiddenLayers / 2)',
      replace: 'const numFull = config.numHiddenLayers',
      what: 'windowed layers are planned as full ones',
      part: 'deep',
    },
    {
      file: cpu,
      search: 'Math.floor((2 * mib) / bytes)',
      replace: '1',
      what: 'pages are planned as if each took a slab of its own',
      part: 'deep',
    },
    {
      file: cpu,
      search: '{ own: 0, mapped: tensor.byteLength }',
      replace: '{ own: tensor.byteLength, mapped: tensor.byteLength }',
      what: 'what is mapped is counted as private too',
      part: 'wide',
    },
    {
      file: cpu,
      search: "if (mayRound && this.#options.precision === 'fast') {",
      replace: 'if (mayRound) {',
      what: 'matrices are planned in 8 bits where they stay as they are',
      part: 'wide',
    },
    {
      file: cpu,
      search: 'this.#kept?.found ? { own: 0, mapped: bytes }',
      replace: 'this.#kept?.found ? { own: bytes, mapped: bytes }',
      what: 'kept matrices are planned as the process’s own too',
      part: 'kept',
    },
    {
      file: 'src/open-engine.ts',
      search: 'const recalled =',
      replace: 'for (const tensor of checkpoint.tensors.values()) await tensor.read()\n    const recalled =',
      what: 'weights are read before the plan is made',
      part: 'wide',
    },
    {
      file: memory,
      search: 'if (plan.total <= available) return',
      replace: 'if (plan.weights <= available) return',
      what: 'the weights alone have to fit',
      part: 'wide',
    },
  ],
}

async function measure(asked: MemoryCase): Promise<MemoryFound> {
  const { stdout, stderr } = await runNode(root, ['test/board/memory-run.ts', JSON.stringify(asked)])
  if (!stdout.startsWith('{')) throw new Error(stderr)
  return JSON.parse(stdout) as MemoryFound
}

function wrongs({ device, decoded }: MemoryCase, found: MemoryFound): string[] {
  const { planned, parts, peak, mapped, refusedAfter } = found
  const megabytes = (bytes: number) => `${(bytes / mb).toFixed(1)} MB`
  const told = `${megabytes(peak)} private at most, planned ${JSON.stringify(parts)}`
  const wrong: string[] = []
  if (Math.abs(peak - planned.private) > 0.05 * planned.private + 64 * mb) wrong.push(told)
  // So small models would pass that with whole parts forgotten. What comes and goes is garbage, and little of it where
  // few tokens are generated by native threads: the heap of JavaScript and the code in it take some 20 MB. Snapshots share
  // pages with windows and with each other for as long as neither moves on: what is planned for them may never be taken.
  if (device === 'cpu') {
    const certain = planned.private - parts.garbage
    if (peak < (parts.cache > 0.5 * certain ? 0.6 : 0.95) * certain - 4 * mb)
      wrong.push(`less than is certain: ${told}`)
    if (peak > 1.05 * certain + (decoded < 10 ? 24 * mb : 56 * mb)) {
      wrong.push(`more than there is cause for: ${told}`)
    }
  }
  if (mapped !== planned.mapped) wrong.push(`${mapped} bytes are used where they are mapped, planned ${planned.mapped}`)
  if (refusedAfter === undefined) wrong.push('it was not refused for want of a byte')
  else if (refusedAfter > headerBytes) wrong.push(`it was refused after ${refusedAfter} bytes had been read`)
  return wrong
}
