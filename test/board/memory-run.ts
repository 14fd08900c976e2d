/**
 * Loads a model in a process of its own, fills its context through the engine until every session has all the snapshots
 * that it may, and prints what was planned beside what was there at most, as JSON.
 *
 *   node --conditions=tutti-source test/board/memory-run.ts '{"path":…}'
 */
import { readFileSync } from 'node:fs'
import { DeviceError } from '../../src/base/errors.ts'
import { openFolder } from '../../src/checkpoint/source.node.ts'
import type { Folder } from '../../src/checkpoint/source.ts'
import { CpuDevice } from '../../src/device/cpu.node.ts'
import type { KeepOptions } from '../../src/device/kept-matrices.node.ts'
import { loadNative, type Native, type NativeBytes } from '../../src/device/native.node.ts'
import { ReferenceDevice } from '../../src/device/reference.ts'
import { LocalEngine } from '../../src/engine/local-engine.ts'
import { openModel } from '../../src/open-engine.ts'

export interface MemoryCase {
  path: string
  device: 'cpu' | 'reference'
  precision?: 'fast' | 'exact'
  cache?: 'bf16' | 'q8'
  contextLength: number
  maxChunk?: number
  maxSessions: number
  /** A folder where 8-bit matrices are kept, and found if they have been made. */
  keepIn?: string
  /** Tokens that each session generates: each leaves its logits to the garbage collector. */
  decoded: number
}

export interface MemoryFound {
  planned: { private: number; mapped: number }
  parts: { weights: number; cache: number; scratch: number; garbage: number }
  /** Private bytes above what the process had before, at most. */
  peak: number
  loaded: number
  /** What the model tells of kept matrices. */
  kept?: string
  /** Bytes of mapped files that the device was given to use. */
  mapped: number
  /** Bytes read and mapped before the model was refused for want of one byte; absent if it was not. */
  refusedAfter?: number
}

/** Memory of this process's own: pages that no file holds. */
function privateBytes(): number {
  const status = readFileSync('/proc/self/status', 'utf8')
  const kib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? 0)
  return 1024 * (kib('RssAnon') + kib('VmSwap') + kib('HugetlbPages'))
}

/** The addon, with an account of what is mapped and stays in use. */
function counted(native: Native): { native: Native; mapped: () => number } {
  const uses = new Map<number, number>()
  const mappedIn = (parts: readonly NativeBytes[]) =>
    parts.reduce((sum, part) => sum + (part instanceof Uint8Array ? 0 : part.length), 0)
  const kept = (id: number, parts: readonly NativeBytes[]) => {
    uses.set(id, mappedIn(parts))
    return id
  }
  return {
    native: {
      ...native,
      matrix: (...args) => kept(native.matrix(...args), args[4]),
      mxfp4: (...args) => kept(native.mxfp4(...args), [args[4], args[5]]),
      release: (device, id) => {
        uses.delete(id)
        native.release(device, id)
      },
    },
    mapped: () => [...uses.values()].reduce((a, b) => a + b, 0),
  }
}

const asked = JSON.parse(process.argv[2]) as MemoryCase
/** A folder that counts what is read. */
function countedFolder(folder: Folder, count: (bytes: number) => void): Folder {
  return {
    path: folder.path,
    list: () => folder.list(),
    size: name => folder.size(name),
    pathOf: name => folder.pathOf!(name),
    read: (name, begin, end) => {
      count(end - begin)
      return folder.read(name, begin, end)
    },
    close: () => folder.close(),
  }
}

const { path, device: kind, contextLength, maxChunk, maxSessions, decoded, keepIn, ...options } = asked
const account = kind === 'cpu' ? counted(loadNative() as Native) : undefined
const keep = keepIn === undefined ? undefined : { folder: keepIn, leastBytes: 0, spareBytes: 0 }
const newDevice = (keep?: KeepOptions) =>
  account ? new CpuDevice(account.native, { ...options, keep }) : new ReferenceDevice()

const before = privateBytes()
let peak = 0
const look = () => void (peak = Math.max(peak, privateBytes() - before))
const timer = setInterval(look, 5)

const opened = await openModel({
  folder: await openFolder(path),
  device: newDevice(keep),
  contextLength,
  maxChunk,
  maxSessions,
  availableMemory: 2 ** 40,
  onProgress: look,
})
const { model, plan } = opened
look()
const loaded = privateBytes() - before
const engine = new LocalEngine(model, { ...opened, model: 'm', device: 'd' })

// Requests of many owners fill the context, all at once; then one more comes, and others' timelines leave.
const share = Math.floor(contextLength / Math.max(1, maxSessions))
const tokensOf = (n: number) => Array.from({ length: share - decoded }, (_, i) => (7 * i + n) % 64)
async function ask(n: number): Promise<void> {
  const tokens = tokensOf(n)
  // Too far apart to share a snapshot, and where a whole window lies before each, if the session is long enough.
  const marks = [5, 4, 3, 2, 1].map(n => tokens.length - 10 * n).filter(mark => mark > 0)
  for await (const event of engine.generate({ tokens, marks, owner: `${n}`, maxTokens: decoded, stopTokens: [] })) {
    look()
    if (event.type === 'end' && event.usage.cachedTokens > 0) throw new Error('a session was taken for another')
  }
}
await Promise.all(Array.from({ length: maxSessions }, (_, n) => ask(n)))
await ask(maxSessions)
look()
clearInterval(timer)
const mapped = account?.mapped() ?? 0
await engine.close()

async function refusal(): Promise<number | undefined> {
  let read = 0
  const found = opened.kept?.includes('are read from') // what was made now would be found
  const folder = countedFolder(await openFolder(path), bytes => void (read += bytes))
  const available = { maxChunk, maxSessions, contextLength, availableMemory: plan.total - 1 }
  try {
    await openModel({ folder, device: newDevice(found ? keep : undefined), ...available })
  } catch (error) {
    if (error instanceof DeviceError) return read + (account?.mapped() ?? 0) - mapped
    throw error
  }
  return undefined
}

const { weights, cache, scratch, garbage } = plan
const found: MemoryFound = {
  planned: { private: plan.total, mapped: plan.mapped },
  parts: { weights, cache, scratch, garbage },
  peak,
  loaded,
  kept: opened.kept,
  mapped,
  refusedAfter: await refusal(),
}
console.log(JSON.stringify(found))
