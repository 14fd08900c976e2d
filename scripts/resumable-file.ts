import { type FileHandle, open, rename, stat } from 'node:fs/promises'

/** Rows of equal length, any of which can be made alone. */
export interface Section {
  readonly rows: number
  readonly rowBytes: number
  /** Writes row `row` into `out`, which is as long as a row. */
  fill(row: number, out: Uint8Array): void
}

/** A file whose every byte is known beforehand. The first section tells it from all others: sizes, seed and layout. */
export interface PlannedFile {
  readonly path: string
  readonly sections: readonly [header: Section, ...rest: Section[]]
}

export class Interrupted extends Error {}

/** Made and moved to the disk at once; a file is continued at a multiple of it. */
const chunkBytes = 8 * 2 ** 20

export const section = (bytes: Uint8Array): Section => ({
  rows: 1,
  rowBytes: bytes.length,
  fill: (_, out) => out.set(bytes),
})

export function byteLength({ sections }: PlannedFile): number {
  return sections.reduce((sum, { rows, rowBytes }) => sum + rows * rowBytes, 0)
}

const partialPath = (path: string): string => `${path}.partial`

/**
 * How many bytes of the file are there already: all of them under its own name, fewer under that of a file begun. Throws
 * where either name is taken by something else.
 */
export async function presentBytes(file: PlannedFile): Promise<number> {
  const size = byteLength(file)
  const whole = await sizeOf(file.path)
  if (whole !== undefined) {
    if (whole !== size || !(await beginsLike(file.path, file.sections[0], whole))) refuse(file.path)
    return size
  }
  const begun = (await sizeOf(partialPath(file.path))) ?? 0
  if (begun > size || !(await beginsLike(partialPath(file.path), file.sections[0], begun))) {
    refuse(partialPath(file.path))
  }
  return begun - (begun % chunkBytes)
}

function refuse(path: string): never {
  throw new Error(`${path} is there already and holds something else: remove it, or give another place`)
}

async function sizeOf(path: string): Promise<number | undefined> {
  return (await stat(path).catch(() => undefined))?.size
}

async function beginsLike(path: string, header: Section, size: number): Promise<boolean> {
  const length = Math.min(size, header.rowBytes)
  if (length === 0) return true
  const expected = new Uint8Array(header.rowBytes)
  header.fill(0, expected)
  const file = await open(path)
  try {
    const found = new Uint8Array(length)
    await file.read(found, 0, length, 0)
    return Buffer.compare(found, expected.subarray(0, length)) === 0
  } finally {
    await file.close()
  }
}

/**
 * Writes what is not there yet; the file gets its name when it is whole. `onBytes` is told after each chunk. Throws
 * Interrupted when `signal` asks, and can then be called again.
 */
export async function writePlanned(
  file: PlannedFile,
  onBytes: (bytes: number) => void,
  signal?: AbortSignal,
): Promise<void> {
  const size = byteLength(file)
  let at = await presentBytes(file)
  if (at === size && (await sizeOf(file.path)) === size) return
  const handle = await open(partialPath(file.path), at === 0 ? 'w' : 'r+')
  try {
    const buffers = [new Uint8Array(chunkBytes), new Uint8Array(chunkBytes)]
    let written: Promise<unknown> = Promise.resolve()
    for (let i = 0; at < size; i++) {
      if (signal?.aborted) break
      const chunk = buffers[i % 2].subarray(0, Math.min(chunkBytes, size - at))
      fillRange(file.sections, at, chunk)
      await written // The disk had the time of one chunk's making for the one before.
      written = writeFully(handle, chunk, at)
      written.catch(() => {}) // Heard at the next await.
      at += chunk.length
      onBytes(chunk.length)
    }
    await written
    if (at < size) throw new Interrupted(`${file.path} is not whole yet: the same command goes on where it stopped`)
    await handle.datasync()
  } finally {
    await handle.close()
  }
  await rename(partialPath(file.path), file.path)
}

async function writeFully(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await handle.write(bytes, done, bytes.length - done, position + done)).bytesWritten
  }
}

/** The bytes of a file from `begin` on. */
export function fillRange(sections: readonly Section[], begin: number, out: Uint8Array): void {
  const end = begin + out.length
  let start = 0
  for (const section of sections) {
    const stop = start + section.rows * section.rowBytes
    if (stop > begin && start < end) fillRows(section, begin - start, end - start, out)
    start = stop
  }
}

/** The part of a section that lies between `begin` and `end`, both counted from its own start. */
function fillRows({ rows, rowBytes, fill }: Section, begin: number, end: number, out: Uint8Array): void {
  const first = Math.max(0, Math.floor(begin / rowBytes))
  const last = Math.min(rows, Math.ceil(end / rowBytes))
  for (let row = first; row < last; row++) {
    const from = row * rowBytes
    if (from >= begin && from + rowBytes <= end) {
      fill(row, out.subarray(from - begin, from - begin + rowBytes))
    } else {
      const whole = new Uint8Array(rowBytes)
      fill(row, whole)
      out.set(whole.subarray(Math.max(0, begin - from), Math.min(rowBytes, end - from)), Math.max(0, from - begin))
    }
  }
}
