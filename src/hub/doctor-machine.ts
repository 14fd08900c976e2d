import { readFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import type { Native } from '../device/native.node.ts'

/** What this machine has, and what of it this process may use. */
export interface Machine {
  /** As it calls itself. */
  readonly cpu: string
  /** Of the whole machine; two of them may share a core. */
  readonly logicalCpus: number
  /** Those that this process may run on, and how many cores they are; undefined where the system does not tell. */
  readonly allowedCpus?: number
  readonly allowedCores?: number
  /** How many CPUs' worth of time this process gets, where it is limited. */
  readonly cpuQuota?: number
  readonly memory: {
    readonly totalBytes: number
    /** What can be taken without swapping. */
    readonly availableBytes: number
    /** Of the group of processes (a container) that this one is in. */
    readonly limitBytes?: number
  }
  /** Whether the system gives large pages of memory: to all, to who asks, to nobody. */
  readonly hugePages?: 'always' | 'madvise' | 'never'
  /** Native kernels: the instruction sets that fit this CPU, the best first, and the threads that tutti takes by default. */
  readonly kernels?: { readonly levels: readonly string[]; readonly threads: number }
  /** Why there are no native kernels. */
  readonly noKernels?: string
}

export function inspectMachine(native: Native | string, availableBytes: number): Machine {
  const [first, ...others] = cpus()
  const totalBytes = totalmem()
  const limit = process.constrainedMemory?.() ?? 0
  const limitBytes = limit > 0 && limit < totalBytes ? limit : undefined
  return {
    cpu: first?.model.trim() || process.arch,
    logicalCpus: others.length + 1,
    ...allowed(),
    ...(typeof native === 'string' ? { noKernels: native } : { kernels: kernelsOf(native) }),
    memory: { totalBytes, availableBytes, ...(limitBytes && { limitBytes }) },
    ...hugePages(),
  }
}

function kernelsOf(native: Native) {
  const levels = native.levels()
  const device = native.open({ level: levels[0], threads: 0, pin: false })
  const { threads } = native.describe(device)
  native.close(device)
  return { levels, threads }
}

function allowed(): Pick<Machine, 'allowedCpus' | 'allowedCores' | 'cpuQuota'> {
  const list = /^Cpus_allowed_list:\s*(\S+)/m.exec(fileText('/proc/self/status') ?? '')?.[1]
  if (list === undefined) return {}
  const all = cpuList(list)
  const core = (cpu: number) =>
    fileText(`/sys/devices/system/cpu/cpu${cpu}/topology/thread_siblings_list`) ?? String(cpu)
  const quota = cpuQuota(fileText('/sys/fs/cgroup/cpu.max') ?? '')
  return {
    allowedCpus: all.length,
    allowedCores: new Set(all.map(core)).size,
    ...(quota !== undefined && { cpuQuota: quota }),
  }
}

/** `0-3,8` is five CPUs. */
export function cpuList(text: string): number[] {
  return text.split(',').flatMap(range => {
    const [from, to = from] = range.split('-').map(Number)
    return Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => from + i)
  })
}

/** A group's `cpu.max`, `150000 100000`: 1.5 CPUs; undefined where there is no limit. */
export function cpuQuota(text: string): number | undefined {
  const [quota, period] = text.trim().split(' ').map(Number)
  return quota > 0 && period > 0 ? quota / period : undefined
}

function hugePages(): Pick<Machine, 'hugePages'> {
  const choice = /\[(always|madvise|never)\]/.exec(fileText('/sys/kernel/mm/transparent_hugepage/enabled') ?? '')?.[1]
  return choice === undefined ? {} : { hugePages: choice as Machine['hugePages'] }
}

function fileText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch {
    return undefined // another system, or one that hides this
  }
}
