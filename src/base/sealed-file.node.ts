import { createHash } from 'node:crypto'
import { type FileHandle, open, rename, stat, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import { partialPath, removePartials, writeWhole } from './cache-files.node.ts'
import { DeviceError, RequestError } from './errors.ts'
import { type SealedReader, type SealedWriter, sealBytes } from './sealed.ts'

/**
 * A file of sections: behind each lies the sha256 of all the bytes before it, earlier seals included. So no section
 * can be changed, moved or missing and the next one still be taken for whole.
 */

/** A file that appears at its path, whole, by `finish`. Only this user may read it. */
export interface NewSealedFile extends SealedWriter {
  /** Resolves once the disk has it. */
  finish(): Promise<void>
  /** What was written is removed. */
  abandon(): Promise<void>
}

/** Begins a file in place of what may be at this path. Throws RequestError, or DeviceError for what the disk does not do. */
export async function createSealed(path: string): Promise<NewSealedFile> {
  const folder = dirname(path)
  await removePartials(folder).catch(error => explain(error, path))
  const partial = partialPath(folder)
  const handle = await open(partial, 'wx', 0o600).catch(error => explain(error, path))
  const digest = createHash('sha256')
  let at = 0
  const write = async (bytes: Uint8Array) => {
    digest.update(bytes)
    await writeWhole(handle, bytes, at).catch(error => explain(error, path))
    at += bytes.length
  }
  return {
    write,
    seal: () => write(digest.copy().digest()),
    async finish() {
      await handle.sync().catch(error => explain(error, path))
      await rename(partial, path).catch(error => explain(error, path))
      await handle.close()
      await syncFolder(folder)
    },
    async abandon() {
      await handle.close()
      await unlink(partial).catch(() => {}) // somebody else has removed it, or it has its name already
    },
  }
}

/** So that the name outlives a power cut. Not every system can. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder).catch(() => undefined)
  await handle?.sync().catch(() => {})
  await handle?.close()
}

/** Opens such a file. Throws RequestError where there is none. */
export async function openSealed(path: string): Promise<SealedReader & { close(): Promise<void> }> {
  const found = await stat(path).catch(error => explain(error, path))
  if (!found.isFile()) throw new RequestError(`${path} is no file: give the path of one`, { param: 'path' })
  return new SealedFile(path, await open(path).catch(error => explain(error, path)), found.size)
}

class SealedFile implements SealedReader {
  readonly name: string
  readonly #handle: FileHandle
  readonly #size: number
  readonly #digest = createHash('sha256')
  #at = 0

  constructor(path: string, handle: FileHandle, size: number) {
    this.name = path
    this.#handle = handle
    this.#size = size
  }

  get bytesLeft(): number {
    return this.#size - this.#at
  }

  async read(length: number): Promise<Uint8Array<ArrayBuffer>> {
    if (length > this.bytesLeft) this.#damaged(`it ends at byte ${this.#size}`)
    const bytes = new Uint8Array(length)
    for (let read = 0; read < length; ) {
      const { bytesRead } = await this.#handle
        .read(bytes, read, length - read, this.#at + read)
        .catch(error => explain(error, this.name))
      if (bytesRead === 0) this.#damaged(`it ends at byte ${this.#at + read}`)
      read += bytesRead
    }
    this.#at += length
    this.#digest.update(bytes)
    return bytes
  }

  async checkSeal(): Promise<void> {
    const expected = this.#digest.copy().digest()
    const at = this.#at
    if (!expected.equals(await this.read(sealBytes)))
      this.#damaged(`its first ${at} bytes are not those that were written`)
  }

  #damaged(what: string): never {
    throw new RequestError(`${this.name} is damaged (${what}): delete it, and save again`, { param: 'path' })
  }

  close(): Promise<void> {
    return this.#handle.close()
  }
}

function explain(error: NodeJS.ErrnoException, path: string): never {
  const cause = error
  const problems: Record<string, string> = {
    ENOENT: `${path} does not exist, or its folder does not`,
    ENOTDIR: `${path} cannot be: a part of it is a file, not a folder`,
    EISDIR: `${path} is a folder: give the path of a file`,
    EACCES: `${path} may not be read or written by this user: change its permissions, or give another path`,
    EPERM: `${path} may not be read or written by this user: change its permissions, or give another path`,
    EROFS: `${path} lies where nothing can be written: give another path`,
  }
  const problem = problems[error.code ?? '']
  if (problem !== undefined) throw new RequestError(problem, { param: 'path', cause })
  const full = error.code === 'ENOSPC' || error.code === 'EDQUOT'
  const what = full ? 'the disk is full: free some space, or give another path' : error.message
  throw new DeviceError(`${path} cannot be written or read: ${what}`, { cause })
}
