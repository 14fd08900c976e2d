import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { seededRandom } from '../base/random.ts'
import type { Checkpoint, StoredTensor } from '../checkpoint/checkpoint.ts'
import { ReferenceDevice } from '../device/reference.ts'
import type { Device, Ops } from '../kernels/ops.ts'
import type { ModelConfig } from '../model/config.ts'
import { type ExpectedTensor, expectedTensors } from '../model/tensors.ts'
import { Transformer } from '../model/transformer.ts'
import { loadWeights } from '../model/weights.ts'
import type {
  Engine,
  EngineInfo,
  GenerateEvent,
  GenerateRequest,
  RestoreEvent,
  RestoreRequest,
  SaveEvent,
  SaveRequest,
} from './engine.ts'
import { eventStream } from './event-stream.ts'
import { checkRequest } from './request.ts'

/** Three windowed and two full layers of everything that gpt-oss has, and so small that a token takes a millisecond. */
export const smallConfig: ModelConfig = {
  numHiddenLayers: 5,
  numExperts: 4,
  expertsPerToken: 2,
  vocabSize: 48,
  hiddenSize: 32,
  intermediateSize: 32,
  headDim: 8,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  slidingWindow: 5,
  initialContextLength: 64,
  ropeTheta: 1000,
  ropeScalingFactor: 4,
  ropeNtkAlpha: 1,
  ropeNtkBeta: 4,
  swigluLimit: 7,
  rmsNormEpsilon: 1e-5,
  maxPositionEmbeddings: 256,
}

export async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}

/** A checkpoint without files: tensors of this configuration with random numbers, in OpenAI's layout. */
export function randomCheckpoint(config: ModelConfig, seed = 1): Checkpoint {
  const random = seededRandom(seed)
  const stored = [...expectedTensors(config, 'openai')].map(tensor => randomTensor(tensor, random))
  return {
    layout: 'openai',
    folder: { path: 'memory', list: async () => [], size: fail, read: fail, close: async () => {} },
    config: new Map(),
    configPath: 'memory/config.json',
    tensors: new Map(stored.map(tensor => [tensor.name, tensor])),
    byteLength: stored.reduce((sum, tensor) => sum + tensor.byteLength, 0),
    close: async () => {},
  }
}

/** A model with random weights: its logits depend on every token, layer and window, and mean nothing. */
export async function randomModel(
  config: ModelConfig = smallConfig,
  { seed = 1, device = new ReferenceDevice() as Device } = {},
): Promise<Transformer> {
  return new Transformer(device, config, await loadWeights(device, randomCheckpoint(config, seed), config))
}

/** A device that records a pass and runs it later, one op after the other, as those do that do not compute in this thread. */
export class LateDevice extends ReferenceDevice {
  readonly #between: (op: keyof Ops) => Promise<unknown>

  /** `between`: what is waited for before each op. */
  constructor(between: (op: keyof Ops) => Promise<unknown> = async () => {}) {
    super()
    this.#between = between
  }

  override begin(): Ops {
    const ops = super.begin()
    const steps: { op: keyof Ops; args: unknown[]; result: Later }[] = []
    let isAbandoned = false
    const run = async () => {
      for (const { op, args, result } of steps) {
        await this.#between(op)
        if (isAbandoned) throw new Error('the pass was abandoned')
        const given = args.map(arg => (arg instanceof Later ? arg.value : arg))
        result.value = (ops[op] as (...args: unknown[]) => unknown).apply(ops, given)
      }
    }
    return new Proxy(ops, {
      get(_, op: keyof Ops) {
        if (op === 'end') return () => void (isAbandoned = true)
        if (op === 'done') return run
        if (op === 'read') return (x: unknown) => run().then(() => ops.read((x as Later).value as never))
        return (...args: unknown[]) => {
          const result = new Later()
          steps.push({ op, args, result })
          return result
        }
      },
    })
  }
}

/** What an op will give. */
class Later {
  value: unknown
}

function fail(): never {
  throw new Error('this checkpoint has no files')
}

function randomTensor({ name, dataType, shape }: ExpectedTensor, random: () => number): StoredTensor {
  const count = shape.reduce((a, b) => a * b, 1)
  const bytes = dataType === 'U8' ? randomMxfp4(name, count, random) : randomBfloat16(name, count, shape, random)
  return {
    name,
    dataType,
    shape,
    byteLength: bytes.length,
    file: 'memory',
    read: async (begin = 0, end = bytes.length) => bytes.slice(begin, end),
  }
}

/** Any code is a number; scales of 2^-4 to 2^-2 keep activations near 1. */
function randomMxfp4(name: string, count: number, random: () => number): Uint8Array {
  const isScale = name.endsWith('scales')
  return Uint8Array.from({ length: count }, () => (isScale ? 123 + Math.floor(random() * 3) : random() * 256))
}

/** Matrices scaled to keep activations near 1, norms about 1, sinks and biases about 0. */
function randomBfloat16(name: string, count: number, shape: readonly number[], random: () => number): Uint8Array {
  const isMatrix = shape.length === 2 && !name.endsWith('_bias')
  const width = isMatrix && !name.startsWith('embedding') ? 3 / Math.sqrt(shape[1]) : 1.5
  const centre = name.endsWith('norm.scale') ? 1 : 0
  const numbers = Float32Array.from({ length: count }, () => centre + (random() * 2 - 1) * (centre ? 0.3 : width))
  const words = Uint16Array.from(new Uint32Array(numbers.buffer), bits => bits >>> 16)
  return new Uint8Array(words.buffer)
}

export interface ScriptedAnswer {
  /** What is generated, whatever is asked; the request's limits hold. */
  tokens: readonly number[]
  /** Thrown after the tokens, if the request wants so many. */
  error?: Error
  /** Between tokens, in milliseconds; default: none. */
  delayMs?: number
}

/**
 * An engine without a model: answers each request with the next tokens of its script, and keeps the requests. For tests
 * of what stands above the engine.
 */
export class ScriptedEngine implements Engine {
  readonly info: EngineInfo
  readonly requests: GenerateRequest[] = []
  /** Those that only run a prompt for later: they take no answer of the script. */
  readonly prefills: GenerateRequest[] = []
  closed = false
  readonly #script: ScriptedAnswer[]

  /** After its last answer the script begins again. */
  constructor(script: readonly (readonly number[] | ScriptedAnswer)[], info: Partial<EngineInfo> = {}) {
    this.info = { model: 'scripted', device: 'script', vocabSize: 201088, contextLength: 131072, ...info }
    this.#script = script.map(answer => ('tokens' in answer ? answer : { tokens: answer }))
  }

  generate(request: GenerateRequest, { signal }: { signal?: AbortSignal } = {}): AsyncGenerator<GenerateEvent> {
    return eventStream(queue => {
      checkRequest(request, this.info)
      const answer = request.maxTokens === 0 ? { tokens: [] } : this.#script[this.requests.length % this.#script.length]
      if (request.maxTokens === 0) this.prefills.push(request)
      else this.requests.push(request)
      let stopped = false
      const pass = this.#answer(
        request,
        answer,
        event => queue.push(event),
        () => stopped || this.closed,
      )
      pass.then(
        () => queue.end(),
        error => queue.fail(error),
      )
      return () => void (stopped = true)
    }, signal)
  }

  async #answer(
    request: GenerateRequest,
    { tokens, error, delayMs }: ScriptedAnswer,
    emit: (event: GenerateEvent) => void,
    isStopped: () => boolean,
  ): Promise<void> {
    const { tokens: prompt, stopTokens = [200002, 200012, 199999], maxTokens = Infinity } = request
    const usage = { promptTokens: prompt.length, cachedTokens: 0, completionTokens: 0 }
    for (const done of [0, prompt.length]) emit({ type: 'prefill', cached: 0, done, total: prompt.length })
    const room = Math.min(maxTokens, this.info.contextLength - prompt.length)
    for (const token of tokens.slice(0, room)) {
      await new Promise<void>(resolve =>
        delayMs === undefined ? queueMicrotask(resolve) : setTimeout(resolve, delayMs),
      )
      if (isStopped()) return
      usage.completionTokens++
      emit({ type: 'token', token })
      if (stopTokens.includes(token)) return emit({ type: 'end', reason: 'stop', usage })
    }
    if (error && tokens.length <= room) throw error
    emit({ type: 'end', reason: 'length', usage })
  }

  /** The file holds the request. */
  async *saveSession({ path, tokens, note }: SaveRequest): AsyncGenerator<SaveEvent> {
    writeFileSync(path, JSON.stringify({ tokens, note }))
    yield { type: 'end', tokens: tokens.length, bytes: statSync(path).size }
  }

  async *restoreSession({ path }: RestoreRequest): AsyncGenerator<RestoreEvent> {
    yield { type: 'copied', done: 1, total: 1 }
    yield { type: 'end', ...JSON.parse(readFileSync(path, 'utf8')) }
  }

  async close(): Promise<void> {
    this.closed = true
  }
}
