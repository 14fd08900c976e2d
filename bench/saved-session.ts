/**
 * How long a saved session takes until it goes on, beside computing it again; and how long it takes to save.
 *
 *   node --conditions=tutti-source bench/saved-session.ts FOLDER [--tokens N] [--cache bf16|q8] [--dir FOLDER] [--rounds N] [--json]
 *
 * FOLDER: a checkpoint; the device is the cpu. --tokens: 8,192 by default; --dir: where the file lies, of a disk that is
 * wanted. What runs are the first and the last chunk of a prompt of N tokens, with copies of the first in between:
 * attention grows evenly from the one to the other, so that their mean times their number is the time of all. Resuming is
 * reading the file, from the disk (`dd` makes the system forget it) and from memory, and the first token behind it.
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { machine } from '../scripts/bench.ts'
import { createSealed, openSealed } from '../src/base/sealed-file.node.ts'
import { openFolder } from '../src/checkpoint/source.node.ts'
import type { CpuCache } from '../src/device/cpu-cache.ts'
import { openDevice } from '../src/device/open.node.ts'
import { LocalEngine } from '../src/engine/local-engine.ts'
import { type SessionFiles, saveSession } from '../src/engine/saved-session.ts'
import { Session } from '../src/engine/session.ts'
import { identityOf } from '../src/hub/identity.ts'
import type { Transformer } from '../src/model/transformer.ts'
import { openModel } from '../src/open-engine.ts'
import { availableMemory } from '../src/platform.node.ts'
import { prompt } from './peers/measures.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    tokens: { type: 'string', default: '8192' },
    cache: { type: 'string', default: 'bf16' },
    dir: { type: 'string', default: tmpdir() },
    rounds: { type: 'string', default: '3' },
    json: { type: 'boolean', default: false },
  },
})
const [folder] = positionals
if (!folder) throw new Error('say which checkpoint: bench/saved-session.ts FOLDER')
const numTokens = Number(values.tokens)

const median = (numbers: readonly number[]) => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)]

async function timed<T>(work: () => Promise<T>): Promise<{ ms: number; value: T }> {
  const begun = performance.now()
  const value = await work()
  return { ms: performance.now() - begun, value }
}

/** A session of these tokens, and about how long it would take to run them. */
async function fill(model: Transformer, tokens: readonly number[], maxChunk: number) {
  const cache = model.newCache(maxChunk)
  const run = async (start: number) => {
    const chunk = { cache, tokens: tokens.slice(start, start + maxChunk), start, logits: 'none' } as const
    return (await timed(() => model.forward([chunk]))).ms
  }
  await run(0) // as every later one, it finds the weights in memory
  cache.rewind(0)
  const first = await run(0)
  const between = tokens.length - maxChunk
  for (const layer of cache.layers) (layer as CpuCache).repeat(between)
  cache.commit(between)
  const last = await run(between)
  cache.mark(tokens.length)
  const session = new Session(model, { contextLength: tokens.length, maxChunk }, { cache, tokens })
  session.rest()
  return { session, first, last, recomputing: ((first + last) / 2) * (tokens.length / maxChunk) }
}

/** The system reads the file from the disk the next time. */
function forget(path: string): void {
  execFileSync('dd', [`if=${path}`, 'iflag=nocache', 'count=0'], { stdio: 'ignore' })
}

/** Milliseconds to restore the file, and then to the first token behind it. */
async function resume(engine: LocalEngine, path: string, tokens: readonly number[], owner: string) {
  const { ms } = await timed(async () => {
    for await (const event of engine.restoreSession({ path, owner })) {
      if (event.type === 'end' && event.refused) throw new Error(event.refused)
    }
  })
  const request = { tokens: [...tokens, 1], owner, maxTokens: 1, sampling: { temperature: 0 } }
  const { ms: first } = await timed(async () => {
    for await (const event of engine.generate(request)) {
      if (event.type === 'end' && event.usage.cachedTokens !== tokens.length) throw new Error('it was not restored')
    }
  })
  return { ms, first }
}

async function main(): Promise<void> {
  const { device, notice } = openDevice({ device: 'cpu', cache: values.cache as 'bf16' | 'q8' })
  if (notice) throw new Error(notice)
  const opened = await openModel({
    folder: await openFolder(folder),
    device,
    availableMemory: availableMemory(),
    contextLength: numTokens + 512,
    sessionFiles: async (checkpoint, config): Promise<SessionFiles> => {
      return { weights: await identityOf(checkpoint, config), create: createSealed, open: openSealed }
    },
  })
  const { model, maxChunk, plan, files } = opened
  const inner = mkdtempSync(join(values.dir, 'tutti-saved-'))
  const path = join(inner, 'a.session')
  try {
    if (!values.json) console.log(machine())
    const tokens = prompt(numTokens, 1, model.config.vocabSize)
    const { session, first, last, recomputing } = await fill(model, tokens, maxChunk)
    const identity = await timed(() => files!.weights())
    const binding = { model: 'm', weights: identity.value, cache: device.cacheFormat }
    const saving = await timed(async () => {
      const file = await createSealed(path)
      await saveSession(session, { binding, note: '' }, file)
      await file.finish()
    })
    session[Symbol.dispose]()

    const saved = { files: files!, cacheFormat: device.cacheFormat }
    const engine = new LocalEngine(model, {
      ...opened,
      model: 'm',
      device: device.name,
      cacheBytes: plan.cache,
      saving: saved,
    })
    const [cold, warm]: Awaited<ReturnType<typeof resume>>[][] = [[], []]
    for (let round = 0; round < Number(values.rounds); round++) {
      forget(path)
      cold.push(await resume(engine, path, tokens, `cold ${round}`))
      warm.push(await resume(engine, path, tokens, `warm ${round}`))
    }
    const firstToken = median([...cold, ...warm].map(({ first }) => first))
    const [fromDisk, fromMemory] = [cold, warm].map(runs => median(runs.map(({ ms }) => ms)))
    print({
      tokens: numTokens,
      MB: statSync(path).size / 1e6,
      firstChunkMs: first,
      lastChunkMs: last,
      recomputingMs: recomputing,
      identityMs: identity.ms,
      savingMs: saving.ms,
      fromDiskMs: fromDisk,
      fromMemoryMs: fromMemory,
      firstTokenMs: firstToken,
      ratio: (recomputing + firstToken) / (fromDisk + firstToken),
    })
    await engine.close()
  } finally {
    rmSync(inner, { recursive: true })
  }
}

function print(figures: Record<string, number>): void {
  const rounded = Object.entries(figures).map(([name, value]) => [name, Number(value.toPrecision(4))])
  if (values.json) console.log(JSON.stringify(Object.fromEntries(rounded)))
  else for (const [name, value] of rounded) console.log(`${`${name}`.padEnd(16)} ${value}`)
}

await main()
