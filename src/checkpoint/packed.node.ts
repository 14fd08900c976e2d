import { type FileHandle, mkdir, open, readdir, realpath, rename, stat, statfs, unlink, utimes } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { digest, partialPath, removePartials, unusedForMs, writeWhole } from '../base/cache-files.node.ts'
import { DeviceError } from '../base/errors.ts'
import { type Checkpoint, openCheckpoint, type StoredTensor, storedTensor } from './checkpoint.ts'
import { type Conversion, conversionsOf, convert } from './conversions.ts'
import { openFolder } from './source.node.ts'
import type { Folder } from './source.ts'
import { safetensorsHeader } from './write.ts'

/**
 * Checkpoints that transformers saved otherwise than gpt-oss was published. Their tensors that need it are converted once,
 * exactly, into a safetensors file in tutti's cache; the others are read where they are. The file's header says what it
 * was made from and nothing else, so who looks for it knows its header byte for byte. It appears whole, by a rename.
 */
export interface PackOptions {
  /** tutti's cache folder; undefined where this user has none. */
  folder: string | undefined
  /** Looks at what the checkpoint will be, before anything is converted: throws where it is no model for this machine. */
  check?: (checkpoint: Checkpoint) => void
  /** Told in bytes of the files that are read: those to convert, and then those to load. */
  onProgress?: (done: number, total: number) => void
  /** Ends converting within a moment; it rejects with `signal.reason`. */
  signal?: AbortSignal
  /** Bytes that must stay free on the disk. 1 GiB by default. */
  spareBytes?: number
  /** Whether the file is made where there is none; otherwise the checkpoint is given as it is. By default true. */
  make?: boolean
}

const mib = 2 ** 20
const ending = '.safetensors'

/** Opens a checkpoint as `openCheckpoint` does, and converts what it has to. Throws CheckpointError and DeviceError. */
export async function openPacked(folder: Folder, options: PackOptions): Promise<Checkpoint> {
  const source = await openCheckpoint(folder)
  try {
    const conversions = folder.pathOf ? conversionsOf(source) : []
    if (conversions.length === 0) return source
    if (options.folder === undefined) {
      throw new DeviceError(
        `${source.folder.path} has ${conversions.length} tensors to convert (${conversions[0].source.name}, …), and there ` +
          'is no folder to keep them in: this user has no home; set TUTTI_CACHE_DIR',
      )
    }
    const plan = await layOut(source, conversions, join(options.folder, 'packed'))
    if (!(await isThere(plan))) {
      if (options.make === false) return source
      options.check?.(withMade(source, plan, nothing(plan.folder)))
      await make(plan, source, options)
    }
    const made = await openFolder(plan.folder)
    const note = `${conversions.length} tensors are read as tutti packed them, from ${join(plan.folder, plan.file)}`
    const close = async () => void (await Promise.all([source.close(), made.close()]))
    return { ...withMade(source, plan, made), note, close }
  } catch (error) {
    await source.close()
    throw error
  }
}

/** The files in tutti's cache folder that were made of the checkpoint in a folder, whatever it was then. */
export async function packedFiles(folder: Folder, cacheFolder: string): Promise<string[]> {
  const source = await openCheckpoint(folder)
  try {
    const conversions = conversionsOf(source)
    if (conversions.length === 0) return []
    const plan = await layOut(source, conversions, join(cacheFolder, 'packed'))
    const names = await readdir(plan.folder).catch(() => [])
    return names.filter(name => name.startsWith(`${plan.sourceName}-`)).map(name => join(plan.folder, name))
  } finally {
    await source.close()
  }
}

/** The file for a checkpoint's converted tensors. */
interface Plan {
  readonly conversions: readonly Conversion[]
  readonly folder: string
  readonly file: string
  /** Of the checkpoint's files: what was made of the same ones when they were others is stale. */
  readonly sourceName: string
  readonly header: Uint8Array
  /** The first byte of each tensor. */
  readonly begins: ReadonlyMap<string, number>
  readonly fileBytes: number
}

async function layOut(source: Checkpoint, conversions: readonly Conversion[], folder: string): Promise<Plan> {
  const made = conversions.flatMap(conversion => conversion.made)
  const header = safetensorsHeader(made, { tutti: 'packed', source: await identify(conversions) })
  const begins = new Map<string, number>()
  let at = header.length
  for (const { name, byteLength } of made) {
    begins.set(name, at)
    at += byteLength
  }
  const files = new Set(conversions.map(({ source }) => source.file))
  const sourceName = digest([await realpath(source.folder.path), ...files].join('\0'))
  const file = `${sourceName}-${digest(header)}${ending}`
  return { conversions, folder, file, sourceName, header, begins, fileBytes: at }
}

/** Files of the same names, sizes and times, tensors at the same places with the same bytes where samples were taken. */
async function identify(conversions: readonly Conversion[]): Promise<string> {
  const sources = conversions.map(({ source }) => source)
  const paths = [...new Set(sources.map(({ location }) => location!.path))]
  const files = await Promise.all(
    paths.map(async path => {
      const { size, mtimeMs } = await stat(path)
      return [basename(path), size, mtimeMs]
    }),
  )
  const tensors = sources.map(({ name, location }) => [name, paths.indexOf(location!.path), location!.begin])
  return digest(JSON.stringify({ files, tensors }), ...(await Promise.all(sources.map(sample))))
}

function sample(tensor: StoredTensor): Promise<Uint8Array> {
  const begin = Math.floor(Math.max(0, tensor.byteLength - 512) / 2)
  return tensor.read(begin, Math.min(tensor.byteLength, begin + 512))
}

/** The checkpoint with what is made in place of what it is made from. */
function withMade(source: Checkpoint, { conversions, file, begins }: Plan, folder: Folder): Checkpoint {
  const replaced = new Map(conversions.map(({ source, made }) => [source.name, made]))
  const tensors = [...source.tensors.values()].flatMap(tensor => {
    const made = replaced.get(tensor.name)
    if (!made) return [tensor]
    return made.map(declared => {
      const begin = begins.get(declared.name)!
      return storedTensor(folder, file, { ...declared, begin, end: begin + declared.byteLength })
    })
  })
  const byteLength = tensors.reduce((sum, tensor) => sum + tensor.byteLength, 0)
  return { ...source, tensors: new Map(tensors.map(tensor => [tensor.name, tensor])), byteLength }
}

/** A folder whose files are yet to be made. */
function nothing(path: string): Folder {
  const notYet = async () => {
    throw new Error(`${path} is not made yet`)
  }
  return { path, list: notYet, size: notYet, read: notYet, pathOf: name => join(path, name), close: async () => {} }
}

/** Whether the file is whole, which its use is noted on. One that is ours by its name only is removed. */
async function isThere({ folder, file, header, fileBytes }: Plan): Promise<boolean> {
  const path = join(folder, file)
  const handle = await open(path).catch(() => undefined)
  if (!handle) return false
  try {
    const start = Buffer.alloc(header.length)
    await handle.read(start, 0, start.length, 0)
    if ((await handle.stat()).size === fileBytes && start.equals(header)) {
      const now = new Date()
      await utimes(path, now, now).catch(() => {}) // a read-only folder has no use for it
      return true
    }
  } finally {
    await handle.close()
  }
  await unlink(path).catch(() => {})
  return false
}

async function make(plan: Plan, source: Checkpoint, options: PackOptions): Promise<void> {
  const partial = await startFile(plan, source, options.spareBytes).catch(error => explain(error, plan, source))
  const { path, handle } = partial
  try {
    await write(plan, source, handle, options)
    await handle.datasync() // before its name says that it is whole
    await handle.close()
    await rename(path, join(plan.folder, plan.file)) // another process may have made the same meanwhile: either will do
  } catch (error) {
    await handle.close().catch(() => {})
    await unlink(path).catch(() => {})
    if (options.signal?.aborted) throw error
    explain(error, plan, source)
  }
}

async function startFile(plan: Plan, source: Checkpoint, spareBytes = 1024 * mib) {
  const { folder, fileBytes } = plan
  await mkdir(folder, { recursive: true })
  await removePartials(folder)
  await removeOthers(plan)
  const { bavail, bsize } = await statfs(folder)
  const [free, wanted] = [bavail * bsize, fileBytes + spareBytes]
  if (free < wanted) {
    throw new DeviceError(
      `${source.folder.path} has to be packed to MXFP4, and ${folder} has ${Math.floor(free / mib)} MiB free where ` +
        `${Math.ceil(wanted / mib)} MiB are wanted: free some, or set TUTTI_CACHE_DIR to a folder on a larger disk`,
    )
  }
  const path = partialPath(folder)
  return { path, handle: await open(path, 'wx', 0o600) }
}

async function write(plan: Plan, source: Checkpoint, handle: FileHandle, options: PackOptions): Promise<void> {
  const { conversions, header, begins } = plan
  const { onProgress, signal } = options
  const toConvert = conversions.reduce((sum, { source }) => sum + source.byteLength, 0)
  const total = toConvert + withMade(source, plan, nothing(plan.folder)).byteLength
  let done = 0
  await writeWhole(handle, header, 0)
  for (const conversion of conversions) {
    for await (const { made, begin, bytes, readBytes } of convert(conversion, source.folder.path)) {
      signal?.throwIfAborted()
      await writeWhole(handle, bytes, begins.get(made.name)! + begin)
      onProgress?.((done += readBytes), total)
    }
  }
}

/** What was made of the same files when they were others, and what nobody has used for a month. */
async function removeOthers({ folder, file, sourceName }: Plan): Promise<void> {
  for (const name of await readdir(folder)) {
    if (!name.endsWith(ending) || name === file) continue
    const path = join(folder, name)
    const found = await stat(path).catch(() => undefined) // another process removes them too
    const isUnused = found && Date.now() - found.mtimeMs > unusedForMs
    if (isUnused || name.startsWith(`${sourceName}-`)) await unlink(path).catch(() => {})
  }
}

const problems: Record<string, string> = {
  EACCES: 'may not be written by this user',
  EPERM: 'may not be written by this user',
  EROFS: 'lies on a disk that cannot be written',
  ENOSPC: 'lies on a disk that is full now',
  EDQUOT: "is beyond this user's quota now",
  ENOTDIR: 'cannot be made: a part of the path is a file',
  EEXIST: 'cannot be made: it is a file',
}

function explain(error: unknown, { folder, fileBytes }: Plan, source: Checkpoint): never {
  const problem = problems[(error as NodeJS.ErrnoException).code ?? '']
  if (problem === undefined) throw error
  throw new DeviceError(
    `${source.folder.path} has to be packed to MXFP4 (${Math.ceil(fileBytes / mib)} MiB), and ${folder} ${problem}: set ` +
      'TUTTI_CACHE_DIR to a folder with room that this user may write',
    { cause: error },
  )
}
