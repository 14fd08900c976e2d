import { cpus } from 'node:os'
import { availableMemory, locateModel } from '#platform'
import { openFolder } from '#source'
import type { Folder } from '../checkpoint/source.ts'
import { CpuDevice } from '../device/cpu.node.ts'
import { openDevice } from '../device/open.node.ts'
import type { WeightBytes } from '../kernels/ops.ts'
import { showMemory } from '../model/memory.ts'
import { modelName } from '../model/name.ts'
import { openModel } from '../open-engine.ts'
import { defineCommand, exitCodes } from './command.ts'
import { SpeedTest } from './measure.ts'
import { modelOptions } from './model-options.ts'
import { flag } from './options.ts'
import { StatusLine } from './terminal.ts'

const { model, device, threads, precision, cache } = modelOptions
const contexts = [0, 2048, 8192, 32_768]

interface Line {
  what: string
  value: number
  unit: string
  note?: string
}

export const bench = defineCommand({
  name: 'bench',
  summary: 'how fast a model runs on this machine',
  argument: '',
  about: [
    'Measures loading, prompts of 64 and 512 tokens, and decoding behind 0, 2k, 8k and 32k tokens of context, beside what ' +
      'plain reads of this machine’s memory would allow. Long contexts are filled, not run; at 2k both are compared.',
    'With --json stdout has one JSON object a line: {"what","value","unit"}.',
  ],
  options: { model, device, threads, precision, cache, json: flag('print figures as JSON, one a line') },
  examples: [
    ['tutti bench --model=models/gpt-oss-20b', 'measures the real model'],
    ['TUTTI_CPU=avx2 tutti bench --model=models/gpt-oss-20b', 'the same with the kernels of an older CPU'],
  ],
  async run({ values }, shell) {
    const { model: name = 'nano', json, ...options } = values
    const status = new StatusLine(shell.stderr)
    const print = (line: Line) => {
      status.clear()
      const { what, value, unit, note } = line
      const text = json
        ? JSON.stringify(line)
        : `${what.padEnd(34)} ${format(value).padStart(8)} ${unit}${note ? `  (${note})` : ''}`
      shell.stdout.write(`${text}\n`)
    }
    const interrupted = new AbortController()
    const release = shell.onInterrupt(() => interrupted.abort())
    const path = locateModel(name)
    const { device, notice } = openDevice(options)
    const begun = performance.now()
    const folder = await openFolder(path)
    const file = await largestFile(folder)
    const opened = await openModel({
      folder,
      device,
      availableMemory: availableMemory(),
      onProgress: (done, total) => status.show(`loading ${name}: ${Math.floor((100 * done) / total)} %`),
    })
    try {
      const { model, weights, maxChunk, plan, contextLength } = opened
      const memory = showMemory({ private: plan.total, mapped: plan.mapped })
      shell.stderr.write(`${modelName(model.config)} on ${device.name}, ${cpus()[0]?.model.trim()}\n`)
      shell.stderr.write(`${memory} planned for ${contextLength} tokens of context\n`)
      if (notice ?? opened.notice) shell.stderr.write(`${notice ?? opened.notice}\n`)
      print({ what: 'loading', value: (performance.now() - begun) / 1000, unit: 's' })
      const test = new SpeedTest(model, maxChunk)
      const steps = [64, 512].map(n => async (): Promise<Line[]> => {
        return [{ what: `prefill, ${n} tokens`, value: await test.prefill(n), unit: 'tokens/s' }]
      })
      if (device instanceof CpuDevice) {
        steps.unshift(() => limits(device, weights.perToken, file))
        steps.push(async () => {
          const { real, filled } = await test.checkFilled(2048)
          return [
            { what: 'decode at 2048 tokens, run', value: real, unit: 'tokens/s', note: `filled ${format(filled)}` },
          ]
        })
      }
      for (const context of device instanceof CpuDevice ? contexts : [0]) {
        const what = `decode at ${context} tokens`
        steps.push(async () => [{ what, value: await test.decode(context), unit: 'tokens/s' }])
      }
      for (const step of steps) {
        if (interrupted.signal.aborted) return exitCodes.interrupted
        status.show('measuring…')
        for (const line of await step()) print(line)
      }
      return exitCodes.success
    } finally {
      status.clear()
      release()
      opened.model.close()
    }
  },
})

/** Plain reads of each kind of memory, and the tokens a second that they allow. */
async function limits(device: CpuDevice, perToken: WeightBytes, file: string | undefined): Promise<Line[]> {
  const huge = await device.readSpeed('huge')
  const small = await device.readSpeed('small')
  const mapped = file && perToken.mapped > 0 ? await device.readSpeed({ path: file }, 4 * 2 ** 30) : huge
  const seconds = perToken.own / huge + perToken.mapped / mapped
  const speed = (what: string, value: number) => ({ what: `plain read, ${what}`, value: value / 1e9, unit: 'GB/s' })
  return [
    speed('huge pages', huge),
    speed('4 KiB pages', small),
    ...(file ? [speed('mapped file', mapped)] : []),
    {
      what: 'limit of decoding',
      value: 1 / seconds,
      unit: 'tokens/s',
      note: `${format((perToken.own + perToken.mapped) / 1e9)} GB a token`,
    },
  ]
}

async function largestFile(folder: Folder): Promise<string | undefined> {
  let [largest, most] = ['', 0]
  for (const name of (await folder.list()).filter(name => name.endsWith('.safetensors'))) {
    const size = await folder.size(name)
    if (size > most) [largest, most] = [name, size]
  }
  return largest ? folder.pathOf?.(largest) : undefined
}

const format = (value: number): string => (value >= 100 ? value.toFixed(0) : value.toPrecision(3))
