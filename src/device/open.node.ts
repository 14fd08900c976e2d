import { cacheFolder } from '../base/cache-folder.node.ts'
import { DeviceError, RequestError } from '../base/errors.ts'
import type { Device } from '../kernels/ops.ts'
import { CpuDevice } from './cpu.node.ts'
import { loadNative } from './native.node.ts'
import type { DeviceOptions } from './options.ts'
import { ReferenceDevice } from './reference.ts'

/**
 * The device that the options ask for. Where native kernels are missing and nobody asked for them, the reference, and
 * `notice` says why. TUTTI_THREADS and TUTTI_CPU (an instruction set) count where the options say nothing, and
 * TUTTI_CACHE_DIR where matrices are kept.
 */
export function openDevice(options: DeviceOptions, env = process.env): { device: Device; notice?: string } {
  if (options.device === 'reference') return { device: new ReferenceDevice() }
  const native = loadNative()
  if (typeof native !== 'string') {
    const threads = options.threads ?? numThreads(env.TUTTI_THREADS)
    const folder = options.keep === false ? undefined : cacheFolder(env)
    const keep = folder === undefined ? undefined : { folder }
    return { device: new CpuDevice(native, { ...options, threads, level: env.TUTTI_CPU || undefined, keep }) }
  }
  const cure = 'in a clone, install a C compiler (cc) and run "npm run prepare"'
  if (options.device === 'cpu') throw new DeviceError(`there are no native kernels (${native}): ${cure}`)
  return {
    device: new ReferenceDevice(),
    notice: `running without native kernels, which is some hundred times slower (${native}): ${cure}`,
  }
}

function numThreads(text: string | undefined): number | undefined {
  if (!text) return undefined
  if (/^[1-9]\d{0,3}$/.test(text)) return Number(text)
  throw new RequestError(`TUTTI_THREADS is "${text}"; it must be a whole number from 1 to 9999`, { param: 'threads' })
}
