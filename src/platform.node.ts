import { existsSync } from 'node:fs'
import { freemem } from 'node:os'
import { isAbsolute, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { RequestError } from './base/errors.ts'
import type { FromWorker, WorkerPort } from './engine/worker-protocol.ts'
import { findPulled, repositoryOf, splitName } from './hub/hub-cache.ts'
import type { WorkerOptions } from './open-engine.ts'

/** Where a model's files lie, by the path or the name that a person gave: `nano`, or one that was pulled, perhaps `@` a revision. */
export function locateModel(name: string): string {
  if (name === 'nano' || name === 'gpt-oss-nano') return fileURLToPath(new URL('../models/nano', import.meta.url))
  const path = resolve(name)
  if (existsSync(path)) return path
  return findPulled(name) ?? refuseModel(name, path)
}

function refuseModel(name: string, path: string): never {
  const looksLikePath = isAbsolute(name) || name.startsWith('.') || name.includes('/')
  const cure = 'give the folder that holds config.json and the .safetensors files'
  let problem = `there is no model "${name}" and no folder ${path}: say nano, gpt-oss-20b or gpt-oss-120b, or ${cure}`
  if (looksLikePath) problem = `there is no folder ${path}: ${cure}`
  if (repositoryOf(splitName(name).name) !== undefined) {
    problem = `${name} is not downloaded, and there is no folder ${path}: run tutti pull ${name}, or ${cure}`
  }
  throw new RequestError(problem, { param: 'model' })
}

/** Bytes of memory that can be taken without the machine beginning to swap. */
export function availableMemory(): number {
  return process.availableMemory?.() ?? freemem()
}

/** Starts the thread that will load and run the model at `path`. */
export function startWorker(data: WorkerOptions): WorkerPort {
  // Of this process's options the thread needs these; others, `--input-type` for one, would keep its file from running.
  const execArgv = process.execArgv.filter(option => /^--(conditions|disable-warning)=/.test(option))
  return workerPort(new Worker(new URL(import.meta.resolve('#engine-worker')), { workerData: data, execArgv }))
}

/** This side of the channel to a thread. */
export function workerPort(worker: Worker): WorkerPort {
  return {
    post: message => worker.postMessage(message),
    listen(onMessage, onDeath) {
      worker.on('message', (message: FromWorker) => onMessage(message))
      worker.on('error', onDeath)
      worker.on('messageerror', onDeath)
      worker.on('exit', code => onDeath(`it exited with code ${code}`))
    },
    hold: alive => (alive ? worker.ref() : worker.unref()),
    terminate: async () => void (await worker.terminate()),
  }
}
