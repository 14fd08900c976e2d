import { unlinkSync } from 'node:fs'
import { type FileHandle, mkdir, open, readdir, realpath, rename, stat, statfs, unlink, utimes } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { digest, partialPath, removePartials, unusedForMs, writeWhole } from '../base/cache-files.node.ts'
import type { StoredTensor } from '../kernels/tensor.ts'
import type { Native, NativeDevice } from './native.node.ts'

/**
 * Matrices that were rounded to 8 bits, kept on disk for the next time: made once for each checkpoint, and used where the
 * file is mapped ever after, so that processes share them.
 *
 * A file has a header, the matrices as they lie in memory (cpu.h says how), and a checksum of each. The header is what
 * identifies the checkpoint, and nothing else: who looks for a file knows its header, byte for byte. Files appear whole,
 * by a rename, and are never written again. Checksums are compared whenever a matrix is loaded.
 */
export interface KeepOptions {
  /** tutti's cache folder. */
  folder: string
  /** Matrices of fewer bytes together are made anew each time. 64 MiB by default. */
  leastBytes?: number
  /** Bytes that must stay free on the disk. 1 GiB by default. */
  spareBytes?: number
}

const mib = 2 ** 20
const ending = '.q8'
/** Copied at a time, by the thread that runs JavaScript. */
const pieceBytes = 4 * mib

/** Bytes of a matrix in 8 bits: rows in panels of 16, a scale for every 32 columns. */
export const q8Bytes = ([rows, cols]: readonly number[]): number =>
  Math.ceil(rows / 16) * 16 * Math.ceil(cols / 32) * 34

/** One matrix, of one or more parts. */
type Parts = readonly StoredTensor[]

/** Where a matrix lies in the file. */
interface Place {
  readonly index: number
  readonly shape: readonly [rows: number, cols: number]
  readonly begin: number
  readonly length: number
}

/** What the file of a checkpoint is to be. */
interface Layout {
  readonly header: Uint8Array
  /** By the name of the first part. */
  readonly places: ReadonlyMap<string, Place>
  readonly checksums: { readonly begin: number; readonly length: number }
  readonly fileBytes: number
}

/** The device's own, as far as it is needed here. */
export interface MatrixMemory {
  readonly native: Native
  readonly device: NativeDevice
}

/** What is known of a checkpoint's matrices before any is loaded. */
export interface KeptMatrices {
  /** What to tell of it: where they come from or go to, or why they are not kept. */
  readonly note: string
  /** They come from a file, and take no memory of this process's own. */
  readonly found: boolean
  /** The matrix of these parts, used where it is mapped; undefined if it has to be made. */
  load(parts: Parts): Promise<number | undefined>
  /** The matrix of these parts was made. The last one completes the file, in the background. */
  made(parts: Parts, matrix: number): void
  /** Gives up what is not complete. */
  stop(): void
  /** Resolves when nothing more happens in the background. */
  settled(): Promise<void>
}

/** Looks for the matrices of a checkpoint, given in the order of loading. Undefined where keeping them does not pay. */
export async function recallMatrices(
  memory: MatrixMemory,
  options: KeepOptions,
  matrices: readonly Parts[],
): Promise<KeptMatrices | undefined> {
  const { folder, leastBytes = 64 * mib } = options
  const bytes = matrices.reduce((sum, parts) => sum + q8Bytes(shapeOf(parts)), 0)
  if (bytes < leastBytes || !matrices.every(parts => parts.every(part => part.location))) return undefined
  try {
    const identity = await identify(memory, matrices)
    const layout = layOut(identity, matrices)
    const place = placeIn(folder)
    const source = await sourceOf(dirname(matrices[0][0].location!.path))
    const name = { source, identity: digest(layout.header), folder: place }
    const found = await findFile(memory, layout, name)
    return found ?? (await startFile(memory, layout, name, options.spareBytes))
  } catch (error) {
    return notKept(error instanceof Error ? error.message : String(error))
  }
}

const placeIn = (cacheFolder: string): string => join(cacheFolder, 'matrices')
const sourceOf = async (folder: string): Promise<string> => digest(await realpath(folder))

/** The files in tutti's cache folder that were made of the checkpoint in a folder, whatever it was then. */
export async function keptFiles(folder: string, cacheFolder: string): Promise<string[]> {
  const [place, source] = [placeIn(cacheFolder), await sourceOf(folder)]
  const names = await readdir(place).catch(() => [])
  return names.filter(name => name.startsWith(`${source}-`)).map(name => join(place, name))
}

interface FileName {
  readonly folder: string
  /** Of the checkpoint's folder: a file of the same with another identity is stale. */
  readonly source: string
  readonly identity: string
}
const pathOf = ({ folder, source, identity }: FileName): string => join(folder, `${source}-${identity}${ending}`)

const notKept = (reason: string): KeptMatrices => ({
  note: `8-bit matrices are not kept: ${reason}`,
  found: false,
  load: async () => undefined,
  made: () => {},
  stop: () => {},
  settled: async () => {},
})

/* ---- what a checkpoint's file is */

/**
 * Files of the same names, sizes and times, tensors at the same places with the same bytes where samples were taken, and
 * kernels that make the same of some numbers. Where the folder lies does not matter.
 */
async function identify(memory: MatrixMemory, matrices: readonly Parts[]): Promise<string> {
  const parts = matrices.flat()
  const paths = [...new Set(parts.map(part => part.location!.path))]
  const files = await Promise.all(
    paths.map(async path => {
      const { size, mtimeMs } = await stat(path)
      return [basename(path), size, mtimeMs]
    }),
  )
  const tensors = matrices.map(parts =>
    parts.map(({ name, dataType, shape, location }) => {
      return [name, dataType, shape, paths.indexOf(location!.path), location!.begin]
    }),
  )
  return JSON.stringify({ files, tensors, samples: await samples(parts), kernels: await probe(memory) })
}

/** Of bytes within each tensor. */
async function samples(tensors: readonly StoredTensor[]): Promise<string> {
  const length = 512
  const taken = await Promise.all(
    tensors.flatMap(tensor =>
      [1 / 3, 2 / 3].map(where => {
        const begin = Math.floor(where * Math.max(0, tensor.byteLength - length))
        return tensor.read(begin, Math.min(tensor.byteLength, begin + length))
      }),
    ),
  )
  return digest(...taken)
}

/** What these kernels make of some numbers: a file bears it, so that nothing made by other rules is ever used. */
async function probe({ native, device }: MatrixMemory): Promise<string> {
  const [rows, cols] = [33, 96]
  let state = 1
  const numbers = Uint16Array.from({ length: rows * cols }, () => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return ((state >>> 16) & 0x8fff) | 0x3000 // bfloat16 of either sign, from 2^-31 up to 1
  })
  const source = native.matrix(device, 'BF16', [rows], cols, [new Uint8Array(numbers.buffer)])
  const made = await native.quantize(device, source).done
  native.release(device, source)
  const codes = new Uint8Array(q8Bytes([rows, cols]))
  native.readCodes(device, made!, 0, codes)
  native.release(device, made!)
  return digest(codes)
}

function layOut(identity: string, matrices: readonly Parts[]): Layout {
  const text = new TextEncoder().encode(`tutti: matrices in 8 bits\n${identity}\n`)
  const header = new Uint8Array(Math.ceil(text.length / 4096) * 4096)
  header.set(text)
  const aligned = (at: number) => Math.ceil(at / 64) * 64
  const places = new Map<string, Place>()
  let at = header.length
  for (const [index, parts] of matrices.entries()) {
    const shape = shapeOf(parts)
    places.set(parts[0].name, { index, shape, begin: at, length: q8Bytes(shape) })
    at = aligned(at + q8Bytes(shape))
  }
  const checksums = { begin: at, length: 8 * matrices.length }
  return { header, places, checksums, fileBytes: at + checksums.length }
}

const shapeOf = (parts: Parts): [rows: number, cols: number] => [
  parts.reduce((rows, part) => rows + part.shape[0], 0),
  parts[0].shape[1],
]

/* ---- a file that is there */

async function findFile(memory: MatrixMemory, layout: Layout, name: FileName): Promise<KeptMatrices | undefined> {
  const names = await readdir(name.folder).catch(() => [])
  for (const candidate of names.filter(other => other.endsWith(`-${name.identity}${ending}`))) {
    const path = join(name.folder, candidate)
    const checksums = await readChecksums(path, layout).catch(() => undefined)
    if (!checksums) {
      await unlink(path).catch(() => {}) // torn, or foreign by a name of ours
      continue
    }
    const now = new Date()
    await utimes(path, now, now).catch(() => {}) // as a sign of use; a read-only folder has no use for it
    return new FoundMatrices(memory, layout, path, checksums)
  }
  return undefined
}

/** Undefined where the file is not what it should be. */
async function readChecksums(path: string, layout: Layout): Promise<Float64Array | undefined> {
  const { header, checksums, fileBytes } = layout
  const file = await open(path)
  try {
    const { size } = await file.stat()
    if (size !== fileBytes) return undefined
    const [start, end] = [Buffer.alloc(header.length), Buffer.alloc(checksums.length)]
    await file.read(start, 0, start.length, 0)
    await file.read(end, 0, end.length, checksums.begin)
    if (!start.equals(header)) return undefined
    return Float64Array.from({ length: end.length / 8 }, (_, i) => end.readDoubleLE(8 * i))
  } finally {
    await file.close()
  }
}

class FoundMatrices implements KeptMatrices {
  readonly note: string
  readonly found = true
  readonly #memory: MatrixMemory
  readonly #layout: Layout
  readonly #path: string
  readonly #checksums: Float64Array
  readonly #map: number
  #isDamaged = false

  constructor(memory: MatrixMemory, layout: Layout, path: string, checksums: Float64Array) {
    this.note = `8-bit matrices are read from ${path}`
    this.#memory = memory
    this.#layout = layout
    this.#path = path
    this.#checksums = checksums
    this.#map = memory.native.map(memory.device, path).map
  }

  async load(parts: Parts): Promise<number | undefined> {
    const { native, device } = this.#memory
    const place = this.#layout.places.get(parts[0].name)
    if (!place || this.#isDamaged) return undefined
    const { index, shape, begin, length } = place
    await native.populate(device, this.#map, begin, length).done
    const matrix = native.matrix(device, 'Q8', [shape[0]], shape[1], [{ map: this.#map, begin, length }])
    if ((await native.checksum(device, matrix).done) === this.#checksums[index]) return matrix
    native.release(device, matrix)
    this.#isDamaged = true
    await unlink(this.#path).catch(() => {}) // the next load makes another
    return undefined
  }

  made(): void {}
  stop(): void {}
  async settled(): Promise<void> {}
}

/* ---- a file that is made */

async function startFile(
  memory: MatrixMemory,
  layout: Layout,
  name: FileName,
  spareBytes = 1024 * mib,
): Promise<KeptMatrices> {
  const { folder } = name
  await mkdir(folder, { recursive: true })
  await removePartials(folder)
  const { bavail, bsize } = await statfs(folder)
  const [free, wanted] = [bavail * bsize, layout.fileBytes + spareBytes]
  if (free < wanted) {
    return notKept(`${folder} has ${Math.floor(free / mib)} MiB free, and ${Math.ceil(wanted / mib)} MiB are wanted`)
  }
  const path = partialPath(folder)
  return new MadeMatrices(memory, layout, name, { path, handle: await open(path, 'wx', 0o600) })
}

class MadeMatrices implements KeptMatrices {
  readonly note: string
  readonly found = false
  readonly #memory: MatrixMemory
  readonly #layout: Layout
  readonly #name: FileName
  readonly #file: { path: string; handle: FileHandle }
  readonly #checksums: Float64Array
  readonly #missing: Set<string>
  #work: Promise<void> = Promise.resolve()
  #isOver = false

  constructor(memory: MatrixMemory, layout: Layout, name: FileName, file: { path: string; handle: FileHandle }) {
    this.note = `8-bit matrices are kept in ${pathOf(name)}`
    this.#memory = memory
    this.#layout = layout
    this.#name = name
    this.#file = file
    this.#checksums = new Float64Array(layout.places.size)
    this.#missing = new Set(layout.places.keys())
  }

  async load(): Promise<undefined> {}

  made(parts: Parts, matrix: number): void {
    const { name } = parts[0]
    const place = this.#layout.places.get(name)
    if (!place || this.#isOver || !this.#missing.delete(name)) return
    const isLast = this.#missing.size === 0
    const { native, device } = this.#memory
    const checksum = native.checksum(device, matrix).done.catch(() => undefined) // asked for now, before the model's first tokens
    this.#work = this.#work
      .then(async () => {
        await this.#write(place, matrix)
        await this.#note(place, checksum)
        if (isLast) await this.#finish()
      })
      .catch(() => this.stop()) // a full disk, or the device was closed: it goes without, and tries again next time
  }

  async #write({ begin, length }: Place, matrix: number): Promise<void> {
    const { native, device } = this.#memory
    const piece = new Uint8Array(Math.min(pieceBytes, length))
    for (let at = 0; at < length && !this.#isOver; at += piece.length) {
      const bytes = piece.subarray(0, Math.min(piece.length, length - at))
      native.readCodes(device, matrix, at, bytes)
      await writeWhole(this.#file.handle, bytes, begin + at)
    }
  }

  async #note({ index }: Place, checksum: Promise<number | undefined>): Promise<void> {
    const sum = await checksum
    if (sum === undefined) this.stop()
    else this.#checksums[index] = sum
  }

  async #finish(): Promise<void> {
    if (this.#isOver) return
    const { header, checksums } = this.#layout
    const { path, handle } = this.#file
    const sums = Buffer.alloc(checksums.length)
    for (const [i, sum] of this.#checksums.entries()) sums.writeDoubleLE(sum, 8 * i)
    await writeWhole(handle, sums, checksums.begin)
    await writeWhole(handle, header, 0)
    if (this.#isOver) return
    await rename(path, pathOf(this.#name))
    this.#isOver = true
    // Not before: the disk takes seconds, in which a short program may end. A power cut may tear the file until then, which
    // its checksums show.
    await handle.datasync()
    await handle.close()
    await removeOthers(this.#name)
  }

  stop(): void {
    if (this.#isOver) return
    this.#isOver = true
    const { path, handle } = this.#file
    try {
      unlinkSync(path) // at once: the thread may end before anything later happens
    } catch {
      // somebody else has removed it
    }
    void this.#work.then(() => handle.close()).catch(() => {})
  }

  async settled(): Promise<void> {
    for (let work: Promise<void> | undefined; work !== this.#work; ) await (work = this.#work)
  }
}

/** What the same folder's files were once, and what nobody has used for a month. */
async function removeOthers({ folder, source, identity }: FileName): Promise<void> {
  for (const name of await readdir(folder)) {
    if (!name.endsWith(ending) || name.endsWith(`-${identity}${ending}`)) continue
    const path = join(folder, name)
    const isUnused = Date.now() - (await stat(path)).mtimeMs > unusedForMs
    if (isUnused || name.startsWith(`${source}-`)) await unlink(path).catch(() => {})
  }
}
