/**
 * `tutti/engine`: token ids in, token ids out. For programs that bring their own format, or that serve an engine of their
 * own to what stands above: everything there asks an `Engine`, be it in this thread, in a worker or elsewhere.
 */

export { openFolder } from '#source'
export { CheckpointError, DeviceError, RequestError } from '../base/errors.ts'
export { openCheckpoint } from '../checkpoint/checkpoint.ts'
export { type Folder, memoryFolder } from '../checkpoint/source.ts'
export { ReferenceDevice } from '../device/reference.ts'
export { type ModelConfig, readConfig } from '../model/config.ts'
export { KvCache } from '../model/kv-cache.ts'
export { type MemoryOptions, type MemoryPlan, planMemory } from '../model/memory.ts'
export type { ShouldStop } from '../model/stop.ts'
export { checkTensors } from '../model/tensors.ts'
export { type Chunk, Transformer } from '../model/transformer.ts'
export { loadWeights } from '../model/weights.ts'
export type {
  EndReason,
  Engine,
  EngineInfo,
  GenerateEvent,
  GenerateRequest,
  MaskSpec,
  RestoreEvent,
  RestoreRequest,
  SampledToken,
  SamplingOptions,
  SaveEvent,
  SaveRequest,
  Usage,
} from './engine.ts'
export { LocalEngine, type LocalEngineOptions } from './local-engine.ts'
export { createMask, type TokenMask } from './mask.ts'
export { checkRequest, checkSampling } from './request.ts'
export { Sampler } from './sampler.ts'
export { Session, type SyncProgress, type SyncResult } from './session.ts'
export { WorkerEngine } from './worker-engine.ts'
export { hostEngine } from './worker-host.ts'
export type { FromWorker, PlainError, ToWorker, WorkerPort } from './worker-protocol.ts'
