import { locateModel, startWorker } from '#platform'
import { Model } from './agent/model.ts'
import { RequestError } from './base/errors.ts'
import { timeLeft } from './base/time-left.ts'
import type { DeviceOptions } from './device/options.ts'
import { WorkerEngine } from './engine/worker-engine.ts'
import { loadTokenizer } from './tokenizer/load.ts'

export type { RespondOptions, RestoredSession, SessionFileOptions } from './agent/model.ts'
export { Model } from './agent/model.ts'
export type { ToolCall, TurnEvent } from './agent/turn.ts'
export { CheckpointError, DeviceError, HarmonyError, RequestError } from './base/errors.ts'
export type { DeviceOptions } from './device/options.ts'
export type {
  EndReason,
  EngineInfo,
  GenerateEvent,
  GenerateRequest,
  SamplingOptions,
  Usage,
} from './engine/engine.ts'
export type { Channel, Message, ReasoningEffort, Role, ToolDescription, ToolNamespace } from './harmony/message.ts'

export interface LoadOptions extends DeviceOptions {
  /** Tokens of prompt and answer together; by default as many as the model was made for and the memory allows. */
  contextLength?: number
  /** Requests that run together; more of them wait. By default 8. */
  maxSessions?: number
  /** Told while weights are read, in bytes, and how many seconds are left, once that can be told. */
  onProgress?: (done: number, total: number, secondsLeft?: number) => void
  /** Ends loading: it rejects with `signal.reason`, and what was loaded is freed. */
  signal?: AbortSignal
}

/**
 * Loads a model: `nano` for the embedded demonstration model, on Node the name of one that `tutti pull` downloaded
 * (`gpt-oss-20b`), or the folder of a gpt-oss checkpoint, or its *.safetensors file, in OpenAI's or Hugging Face's
 * layout. It runs in a worker of its own; close it when done, or declare it with `await using`. Throws RequestError (no
 * such model), CheckpointError (damaged or foreign files), DeviceError (not enough memory), or `signal.reason`.
 */
export async function load(model = 'nano', options: LoadOptions = {}): Promise<Model> {
  const { onProgress, signal, ...rest } = options
  for (const name of ['contextLength', 'threads', 'maxSessions'] as const) {
    const value = rest[name]
    if (value === undefined || (Number.isInteger(value) && value > 0)) continue
    throw new RequestError(`${name} is ${value}; it must be a positive whole number`, { param: name })
  }
  const path = locateModel(model)
  signal?.throwIfAborted()
  const left = timeLeft()
  const onLoading = onProgress && ((done: number, total: number) => onProgress(done, total, left(done, total)))
  const [tokenizer, engine] = await Promise.all([
    loadTokenizer(),
    WorkerEngine.start(startWorker({ path, ...rest }), onLoading, signal),
  ])
  return new Model(engine, tokenizer)
}
