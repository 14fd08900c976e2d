import { cpus } from 'node:os'
import { availableMemory, locateModel } from '#platform'
import { openFolder } from '#source'
import { cacheFolder } from '../base/cache-folder.node.ts'
import { timeLeft } from '../base/time-left.ts'
import type { Folder } from '../checkpoint/source.ts'
import { CpuDevice } from '../device/cpu.node.ts'
import { openDevice } from '../device/open.node.ts'
import { openChecked } from '../hub/records-load.ts'
import type { Device, WeightBytes } from '../kernels/ops.ts'
import type { ModelConfig } from '../model/config.ts'
import { showMemory } from '../model/memory.ts'
import { modelName } from '../model/name.ts'
import { type OpenedModel, openModel } from '../open-engine.ts'
import { type Served, serve, table } from './bench-serve.ts'
import { defineCommand, exitCodes, type Shell } from './command.ts'
import { SpeedTest } from './measure.ts'
import { interruptible, modelOptions, type Progress, showProgress } from './model-options.ts'
import { flag, numbers, type Values, wholeNumber } from './options.ts'
import { StatusLine } from './terminal.ts'

const { model, device, threads, precision, cache, 'no-keep': noKeep } = modelOptions
const contexts = [0, 2048, 8192, 32_768]

interface Line {
  what: string
  value: number
  unit: string
  /** The value if nothing but plain reads of memory took time. */
  limit?: number
  note?: string
}

export const bench = defineCommand({
  name: 'bench',
  summary: 'how fast a model runs on this machine',
  argument: '',
  about: [
    'Measures loading, a prompt of 64 tokens, and behind 0, 2k, 8k and 32k tokens of context a prompt of 512 and decoding, ' +
      'beside what plain reads of this machine’s memory would allow. Long contexts are filled, not run; at 2k both are ' +
      'compared. For a model of 12 GB it takes some minutes.',
    'With --serve it is put under load instead: users who ask, read the whole answer and ask again, all at once; for each ' +
      'number of them how much all got together, and what one of them waited for the first token and between two.',
    'With --json stdout has one JSON object a line: {"what","value","unit","limit","model","device","cache","cpu"}; limit ' +
      'is missing where plain reads set none.',
  ],
  options: {
    model,
    device,
    threads,
    precision,
    cache,
    'no-keep': noKeep,
    serve: flag('measure many users at once'),
    users: numbers('how many users, one figure after the other: default 1,2,4,8'),
    prompt: wholeNumber(1, 'tokens of a user’s prompt, half to one and a half of it: default 128'),
    answer: wholeNumber(1, 'tokens of an answer, in the same way: default 64'),
    seconds: wholeNumber(1, 'how long each number of users is measured: default 30'),
    json: flag('print figures as JSON, one a line'),
  },
  examples: [
    ['tutti bench --model=models/gpt-oss-20b', 'measures the real model'],
    ['tutti bench --serve --users=1,8,16', 'what eight and sixteen users at once get, beside one'],
    ['TUTTI_CPU=avx2 tutti bench --model=models/gpt-oss-20b', 'the same with the kernels of an older CPU'],
  ],
  async run({ values }, shell) {
    if (values.serve) return benchServing(values, shell)
    const { model: name = 'nano', json, 'no-keep': noKeep, ...options } = values
    const status = new StatusLine(shell.stderr)
    const interrupted = new AbortController()
    const release = shell.onInterrupt(() => interrupted.abort())
    const path = locateModel(name)
    const { device, notice } = openDevice({ ...options, keep: !noKeep })
    const left = timeLeft()
    const begun = performance.now()
    const folder = await openFolder(path)
    const file = await largestFile(folder)
    const opened = await openModel({
      folder,
      open: (folder, converting) => openChecked(folder, { folder: cacheFolder(), ...converting }),
      device,
      availableMemory: availableMemory(),
      signal: interrupted.signal,
      onProgress: (done, total) => status.show(`loading ${name}: ${showProgress(done, total, left(done, total))}`),
    }).catch(error => {
      status.clear()
      if (!interrupted.signal.aborted) throw error
    })
    if (!opened) return exitCodes.interrupted
    const loading = (performance.now() - begun) / 1000
    const about = {
      model: modelName(opened.model.config),
      device: device.name,
      cache: options.cache ?? 'bf16',
      cpu: cpus()[0]?.model.trim(),
    }
    const print = (line: Line) => {
      status.clear()
      shell.stdout.write(`${json ? JSON.stringify({ ...line, ...about }) : show(line)}\n`)
    }
    try {
      const { plan, contextLength } = opened
      const memory = showMemory({ private: plan.total, mapped: plan.mapped })
      shell.stderr.write(`${about.model} on ${about.device}, ${about.cpu}\n`)
      shell.stderr.write(`${memory} planned for ${contextLength} tokens of context\n`)
      if (opened.kept) shell.stderr.write(`${opened.kept}\n`)
      if (notice ?? opened.notice) shell.stderr.write(`${notice ?? opened.notice}\n`)
      print({ what: 'loading', value: loading, unit: 's' })
      status.show('measuring…')
      for await (const line of lines(opened, device, file, interrupted.signal)) {
        print(line)
        status.show('measuring…')
      }
      return exitCodes.success
    } catch (error) {
      if (interrupted.signal.aborted && error === interrupted.signal.reason) return exitCodes.interrupted
      throw error
    } finally {
      status.clear()
      release()
      opened.model.close()
    }
  },
})

type ServingValues = Pick<
  Values<typeof modelOptions>,
  'model' | 'device' | 'threads' | 'precision' | 'cache' | 'no-keep'
> & { users?: readonly number[]; prompt?: number; answer?: number; seconds?: number; json?: true }

/** Measures what users get who ask all at once. */
async function benchServing(values: ServingValues, shell: Shell): Promise<number> {
  const { model: name = 'nano', users = [1, 2, 4, 8], prompt = 128, answer = 64, seconds = 30, json } = values
  const { device, threads, precision, cache } = values
  const status = new StatusLine(shell.stderr)
  const rows: Served[] = []
  const finished = await interruptible(shell, async signal => {
    const onProgress = (...progress: Progress) => status.show(`loading ${name}: ${showProgress(...progress)}`)
    const maxSessions = Math.max(...users)
    const options = { device, threads, precision, cache, keep: !values['no-keep'], maxSessions, signal, onProgress }
    await using model = await shell.load(name, options)
    status.clear()
    const { device: on, model: of } = model.info
    shell.stderr.write(
      `${of} on ${on}, ${cpus()[0]?.model.trim()}: prompts of ${prompt} tokens, answers of ${answer}\n`,
    )
    for (const [n, count] of users.entries()) {
      status.show(`${count} ${count === 1 ? 'user' : 'users'}, ${seconds} s (${n + 1} of ${users.length})`)
      const load = { users: count, promptTokens: prompt, answerTokens: answer, seconds }
      const row = await serve(model.engine, load, signal)
      status.clear()
      rows.push(row)
      if (json)
        shell.stdout.write(`${JSON.stringify({ what: 'serve', ...row, prompt, answer, model: of, device: on })}\n`)
    }
  }).finally(() => status.clear())
  if (!json && rows.length > 0) shell.stdout.write(`${table(rows)}\n`)
  return finished ? exitCodes.success : exitCodes.interrupted
}

async function* lines(
  { model, maxChunk, weights }: OpenedModel,
  device: Device,
  file: string | undefined,
  signal: AbortSignal,
): AsyncGenerator<Line> {
  const test = new SpeedTest(model, maxChunk, signal)
  const speed = (what: string, value: number, more?: Partial<Line>): Line => ({
    what,
    value,
    unit: 'tokens/s',
    ...more,
  })
  const reads = device instanceof CpuDevice ? await plainReads(device, weights.perToken, file) : undefined
  for (const [what, value] of Object.entries(reads ?? {})) {
    yield { what: `plain read of ${readNames[what as keyof PlainReads]}`, value: value / 1e9, unit: 'GB/s' }
  }
  yield speed('prefill of 64 tokens', await test.prefill(64))
  for (const context of reads ? contexts : [0]) {
    signal.throwIfAborted()
    const behind = context === 0 ? '' : ` behind ${context}`
    yield speed(`prefill of 512 tokens${behind}`, await test.prefill(512, context))
    if (context === 2048) {
      const { real, filled } = await test.checkFilled(context)
      yield speed(`decode${behind} run`, real, { note: `${format(filled)} behind filled ones` })
    }
    const limit = reads && decodeLimit(device, model.config, weights.perToken, reads, context)
    yield speed(`decode${behind}`, await test.decode(context), { limit })
  }
}

/** Bytes a second. */
interface PlainReads {
  huge: number
  small: number
  mapped?: number
}
const readNames = { huge: 'huge pages', small: '4 KiB pages', mapped: 'the mapped file' }

async function plainReads(device: CpuDevice, perToken: WeightBytes, file?: string): Promise<PlainReads> {
  const [huge, small] = [await device.readSpeed('huge'), await device.readSpeed('small')]
  if (!file || perToken.mapped === 0) return { huge, small }
  return { huge, small, mapped: await device.readSpeed({ path: file }, 4 * 2 ** 30) }
}

/** Tokens a second if weights and cache were read at the speed of a plain read and nothing else took time. */
function decodeLimit(
  device: Device,
  config: ModelConfig,
  { own, mapped }: WeightBytes,
  reads: PlainReads,
  context: number,
): number {
  const { numAttentionHeads, numKeyValueHeads, headDim, slidingWindow, numHiddenLayers } = config
  const read = (window: number) =>
    device.cacheBytes({ numAttentionHeads, numKeyValueHeads, headDim, window }, Math.min(window, context))
  const numFull = Math.floor(numHiddenLayers / 2)
  const cache = numFull * read(Infinity) + (numHiddenLayers - numFull) * read(slidingWindow)
  return 1 / ((own + cache) / reads.huge + mapped / (reads.mapped ?? reads.huge))
}

function show({ what, value, unit, limit, note }: Line): string {
  const remark = limit === undefined ? note : `${((100 * value) / limit).toFixed(0)} % of the limit ${format(limit)}`
  return `${what.padEnd(34)} ${format(value).padStart(8)} ${unit}${remark ? `  (${remark})` : ''}`
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
