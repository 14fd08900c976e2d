/**
 * Our side, one process. Prints one line of JSON: the values of the measures.
 *
 *   node --conditions=tutti-source bench/peers/ours.ts FOLDER '["decode", "prefill-64"]' STARTED_MS '{"device":"cpu"}'
 *
 * What users call is measured, `load` and `generate` with a worker between; long contexts and many sequences by `tutti
 * bench`'s own test, which fills caches instead of running minutes of prompt.
 */

import { openFolder } from '../../src/checkpoint/source.node.ts'
import { SpeedTest } from '../../src/cli/measure.ts'
import { openDevice } from '../../src/device/open.node.ts'
import type { DeviceOptions } from '../../src/device/options.ts'
import type { Engine } from '../../src/engine/engine.ts'
import { load } from '../../src/index.ts'
import { openModel } from '../../src/open-engine.ts'
import { availableMemory } from '../../src/platform.node.ts'
import {
  decodePrompt,
  decodeTokens,
  memoryContext,
  prefillLength,
  privateGigabytes,
  prompt,
  secondsSince,
  startPrompt,
  type Values,
} from './measures.ts'

const longContext = 32_768
const manySessions = 8

async function measure(
  folder: string,
  names: readonly string[],
  started: number,
  options: DeviceOptions,
): Promise<Values> {
  const ofModel = names.find(name => name === 'decode-32k' || name === 'sessions-8')
  if (ofModel) return measureModel(folder, ofModel, options)
  const longest = Math.max(512, ...names.map(name => prefillLength(name) ?? 0))
  const contextLength = names.includes('memory') ? memoryContext : longest + 256
  const { engine } = await load(folder, { ...options, contextLength })
  const tokens = (length: number, seed: number) => prompt(length, seed, engine.info.vocabSize)
  if (names.includes('start')) {
    await firstToken(engine, tokens(startPrompt, 1))
    return { start: secondsSince(started) }
  }
  await generate(engine, tokens(decodePrompt, 1), 8) // Whatever is done once is done.
  const values: Values = {}
  for (const name of names) {
    const length = prefillLength(name)
    if (name === 'decode') values[name] = await generate(engine, tokens(decodePrompt, 2), decodeTokens)
    else if (length !== undefined) values[name] = length / (await firstToken(engine, tokens(length, 3)))
    else if (name === 'memory') {
      await firstToken(engine, tokens(memoryContext - 1, 3), 'kept')
      values[name] = privateGigabytes()
    } else throw new Error(`there is no measure ${name}`)
  }
  return values
}

async function measureModel(folder: string, name: string, options: DeviceOptions): Promise<Values> {
  const { device, notice } = openDevice(options)
  if (notice) throw new Error(notice)
  const opened = await openModel({ folder: await openFolder(folder), device, availableMemory: availableMemory() })
  const test = new SpeedTest(opened.model, opened.maxChunk)
  if (name === 'sessions-8') return { 'sessions-1': await test.decode(), [name]: await test.decode(0, manySessions) }
  return { 'decode-0': await test.decode(), [name]: await test.decode(longContext) }
}

/** Seconds from a prompt to its first token. */
async function firstToken(engine: Engine, tokens: number[], session?: string): Promise<number> {
  const start = performance.now()
  for await (const event of engine.generate({ tokens, maxTokens: 1, session, sampling: { temperature: 0 } })) {
    if (event.type === 'token') return (performance.now() - start) / 1000
  }
  throw new Error('generation ended without a token')
}

/** Tokens a second behind the first. */
async function generate(engine: Engine, tokens: number[], count: number): Promise<number> {
  let [start, done] = [0, 0]
  const request = { tokens, maxTokens: count + 1, stopTokens: [], sampling: { temperature: 0 } }
  for await (const event of engine.generate(request)) {
    if (event.type !== 'token') continue
    if (done++ === 0) start = performance.now()
  }
  if (done <= count) throw new Error(`generation ended after ${done} of ${count + 1} tokens`)
  return (1000 * count) / (performance.now() - start)
}

const [folder, names, started, options = '{}'] = process.argv.slice(2)
const values = await measure(folder, JSON.parse(names), Number(started), JSON.parse(options))
process.stdout.write(`${JSON.stringify(values)}\n`)
process.exit(0)
