import { availableMemory, locateModel } from '#platform'
import { openFolder } from '#source'
import { cacheFolder } from '../base/cache-folder.node.ts'
import type { Checkpoint } from '../checkpoint/checkpoint.ts'
import { openPacked } from '../checkpoint/packed.node.ts'
import { readSpeed } from '../checkpoint/read-speed.ts'
import { CpuDevice } from '../device/cpu.node.ts'
import { loadNative } from '../device/native.node.ts'
import { openDevice } from '../device/open.node.ts'
import type { DeviceOptions } from '../device/options.ts'
import { type Candidate, type Diagnosis, diagnose, machineAdvice } from '../hub/doctor.ts'
import { declaredTensors } from '../hub/doctor-headers.ts'
import { inspectMachine, type Machine } from '../hub/doctor-machine.ts'
import { measureSpeeds, type Speeds } from '../hub/doctor-measure.ts'
import { type Report, showReport } from '../hub/doctor-report.ts'
import { findPulled } from '../hub/hub-cache.ts'
import type { Device } from '../kernels/ops.ts'
import { type ModelConfig, readConfig } from '../model/config.ts'
import { modelName } from '../model/name.ts'
import { publishedConfig } from '../model/published.ts'
import { checkTensors } from '../model/tensors.ts'
import { planWeights, roundableMatrices } from '../model/weights.ts'
import { defineCommand, exitCodes } from './command.ts'
import { interruptible, modelOptions } from './model-options.ts'
import { flag, text, wholeNumber } from './options.ts'
import { StatusLine } from './terminal.ts'

const { device, threads, precision, cache } = modelOptions

export const doctor = defineCommand({
  name: 'doctor',
  summary: 'which model runs on this machine, how fast, and why',
  argument: '',
  about: [
    'Looks at CPU and memory, measures for some seconds how fast they are, and says of gpt-oss-20b and gpt-oss-120b, or of ' +
      'the model that is named, what memory it needs, whether that is there, how fast it would be, and what would make it ' +
      'faster. No model has to be there for that, and nothing is loaded.',
    'With --json stdout has one JSON object: {"machine","speeds","models","advice"}; memory is in bytes, times are in ' +
      'seconds.',
  ],
  options: {
    model: text('NAME', 'gpt-oss-20b, gpt-oss-120b, nano, or the folder of a checkpoint: default both large ones'),
    context: wholeNumber(1, 'tokens of prompt and answer together: default what model and memory allow'),
    device,
    threads,
    precision,
    cache,
    json: flag('print the report as JSON'),
  },
  examples: [
    ['tutti doctor', 'looks at this machine, and at both large models'],
    ['tutti doctor --model=models/gpt-oss-20b --context=32768', 'asks about a model that is there'],
  ],
  async run({ values }, shell) {
    const { model, context, json, ...options } = values
    const status = new StatusLine(shell.stderr)
    let report: Report | undefined
    try {
      const whole = await interruptible(shell, async signal => {
        status.show('measuring for some seconds…')
        report = await examine({ model, context, options, signal })
      })
      if (!whole || !report) return exitCodes.interrupted
    } finally {
      status.clear()
    }
    shell.stdout.write(json ? `${JSON.stringify(report)}\n` : showReport(report))
    return exitCodes.success
  },
})

interface Wish {
  model?: string
  context?: number
  options: DeviceOptions
  signal: AbortSignal
}

/** What is found of this machine: tests have another one. */
interface World {
  readonly machine: Machine
  readonly measure: typeof measureSpeeds
}
const here = (): World => ({ machine: inspectMachine(loadNative(), availableMemory()), measure: measureSpeeds })

export async function examine({ model, context, options, signal }: Wish, world = here()): Promise<Report> {
  const { machine, measure } = world
  const asked = await subjects(model)
  const models: Diagnosis[] = []
  const measured = new Map<string, Speeds>()
  try {
    for (const subject of asked) {
      const { device } = openDevice(options)
      const small = openDevice({ ...options, cache: 'q8' }).device
      try {
        const candidate = await candidateOf(subject, { device, small }, options)
        const asIs = diagnose(candidate, { machine, wanted: context })
        const { config, checkpoint } = subject
        const ofDevice = (device: CpuDevice) => measure(device, config, signal)
        const speeds = asIs.refusal === undefined ? await speedsOf(device, config, measured, ofDevice) : undefined
        const disk = checkpoint && asIs.chosen.paging && (await readSpeed(expertsOf(checkpoint)))
        models.push(diagnose(candidate, { machine, speeds, disk, wanted: context }))
      } finally {
        device.close()
        small.close()
      }
    }
  } finally {
    for (const { checkpoint } of asked) await checkpoint?.close()
  }
  const [speeds] = measured.values()
  return { machine, ...(speeds && { speeds }), models, advice: machineAdvice(machine) }
}

/** The subject as the device would hold it, and other choices for comparison. */
async function candidateOf(
  { name, path, config, checkpoint }: Subject,
  { device, small }: { device: Device; small: Device },
  options: DeviceOptions,
): Promise<Candidate> {
  const { precision = 'fast', cache = 'bf16', threads } = options
  if (checkpoint) await device.recall?.(roundableMatrices(checkpoint, config))
  const tensors = checkpoint ?? declaredTensors(config)
  const exact = openDevice({ ...options, precision: 'exact' }).device
  const { perToken } = planWeights(exact, tensors, config)
  exact.close()
  return {
    name,
    path,
    config,
    device,
    weights: planWeights(device, tensors, config),
    ...(cache !== 'q8' && { smallCache: small }),
    choices: {
      device: device instanceof CpuDevice ? 'cpu' : 'reference',
      precision,
      cache,
      threads,
      exactBytes: perToken.own + perToken.mapped,
    },
  }
}

interface Subject {
  name: string
  path?: string
  config: ModelConfig
  checkpoint?: Checkpoint
}

const published = ['20b', '120b'] as const

/** The model that is named, or both published ones; those that were not downloaded are known all the same. */
async function subjects(model: string | undefined): Promise<Subject[]> {
  const all = published.map(size => ({ name: `gpt-oss-${size}`, size }))
  const named = all.filter(({ name }) => model === undefined || [name, `openai/${name}`].includes(model))
  if (model !== undefined && named.length === 0) return [await openSubject(locateModel(model))]
  const opened: Subject[] = []
  for (const { name, size } of named) {
    const path = findPulled(name)
    opened.push(path === undefined ? { name, config: publishedConfig(size) } : await openSubject(path))
  }
  return opened
}

async function openSubject(path: string): Promise<Subject> {
  const checkpoint = await openPacked(await openFolder(path), { folder: cacheFolder(), make: false })
  try {
    const config = readConfig(checkpoint.config, checkpoint.configPath)
    checkTensors(checkpoint, config)
    return { name: modelName(config), path, config, checkpoint }
  } catch (error) {
    await checkpoint.close()
    throw error
  }
}

/** Models of the same widths share one measurement. */
async function speedsOf(
  device: Device,
  config: ModelConfig,
  measured: Map<string, Speeds>,
  measure: (device: CpuDevice) => Promise<Speeds>,
): Promise<Speeds | undefined> {
  if (!(device instanceof CpuDevice)) return undefined
  const { hiddenSize, intermediateSize, headDim, numAttentionHeads, numKeyValueHeads, expertsPerToken } = config
  const key = [hiddenSize, intermediateSize, headDim, numAttentionHeads, numKeyValueHeads, expertsPerToken].join()
  const speeds = measured.get(key) ?? (await measure(device))
  measured.set(key, speeds)
  return speeds
}

const expertsOf = (checkpoint: Checkpoint) =>
  [...checkpoint.tensors.values()].filter(({ dataType }) => dataType === 'U8')
