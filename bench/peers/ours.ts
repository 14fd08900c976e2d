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
import { CpuDevice } from '../../src/device/cpu.node.ts'
import { openDevice } from '../../src/device/open.node.ts'
import type { DeviceOptions } from '../../src/device/options.ts'
import type { GenerateEvent } from '../../src/engine/engine.ts'
import { load } from '../../src/index.ts'
import { openModel } from '../../src/open-engine.ts'
import { availableMemory } from '../../src/platform.node.ts'
import { longContext, manySessions, type Values } from './measures.ts'
import { RoutingWatch } from './routing.ts'
import { type Side, takeMeasures } from './side.ts'

async function open(folder: string, options: DeviceOptions, contextLength: number): Promise<Side> {
  const { engine } = await load(folder, { ...options, contextLength })
  const sampling = { temperature: 0 }
  const firstOf = async (events: AsyncIterable<GenerateEvent>) => {
    for await (const event of events) if (event.type === 'token') return
    throw new Error('generation ended without a token')
  }
  return {
    vocabSize: engine.info.vocabSize,
    firstToken: tokens => firstOf(engine.generate({ tokens, maxTokens: 1, sampling })),
    async generate(tokens, count) {
      let [begun, done] = [0, 0]
      for await (const event of engine.generate({ tokens, maxTokens: count + 1, stopTokens: [], sampling })) {
        if (event.type === 'token' && done++ === 0) begun = performance.now()
      }
      if (done <= count) throw new Error(`generation ended after ${done} of ${count + 1} tokens`)
      return (1000 * count) / (performance.now() - begun)
    },
    // Only what a session has run is in its cache, and only a named session keeps it.
    fill: tokens => firstOf(engine.generate({ tokens, maxTokens: 1, owner: 'kept', sampling })),
  }
}

/** The two measures of the model itself, each beside its plain counterpart. */
async function measureModel(folder: string, name: string, options: DeviceOptions): Promise<Values> {
  const { device, notice } = openDevice(options)
  if (notice) throw new Error(notice)
  const watch = new RoutingWatch(device)
  const opened = await openModel({
    folder: await openFolder(folder),
    device: watch.device,
    availableMemory: availableMemory(),
  })
  const test = new SpeedTest(opened.model, opened.maxChunk)
  if (name === 'decode-32k') return { 'decode-0': await test.decode(), [name]: await test.decode(longContext) }
  const distinct: number[] = []
  return {
    'sessions-1': await test.decode(),
    [name]: await test.decode(0, manySessions, async batch => {
      distinct.push(...(await watch.distinctExperts(opened.model, batch)))
    }),
    'distinct-experts': distinct.reduce((a, b) => a + b) / distinct.length,
  }
}

/**
 * The first load makes the file of matrices in 8 bits in the background. It is no part of any measure: once it is there,
 * all starts are alike.
 */
async function makeKept(folder: string, options: DeviceOptions): Promise<Values> {
  const { device } = openDevice(options)
  const { model } = await openModel({ folder: await openFolder(folder), device, availableMemory: availableMemory() })
  if (device instanceof CpuDevice) await device.settled()
  model.close()
  return {}
}

async function measure(folder: string, names: string[], started: number, options: DeviceOptions): Promise<Values> {
  if (names.includes('kept')) return makeKept(folder, options)
  const ofModel = names.find(name => name === 'decode-32k' || name === 'sessions-8')
  if (ofModel) return measureModel(folder, ofModel, options)
  return takeMeasures(names, started, length => open(folder, options, length))
}

const [folder, names, started, options = '{}'] = process.argv.slice(2)
const values = await measure(folder, JSON.parse(names), Number(started), JSON.parse(options))
process.stdout.write(`${JSON.stringify(values)}\n`)
process.exit(0)
