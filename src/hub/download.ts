import { createHash, type Hash } from 'node:crypto'
import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { CheckpointError, DeviceError } from '../base/errors.ts'
import type { RepositoryCache } from './hub-cache.ts'
import { type HubClient, type HubFile, maxTries, type Range, RangeRefused, Unreachable } from './hub-client.ts'
import { PartMap } from './part-map.ts'

export interface Download {
  client: HubClient
  cache: RepositoryCache
  commit: string
  file: HubFile
  /** How the file is cut: each part is recorded when it is on the disk, and is never fetched again. */
  partBytes: number
  numConnections: number
  signal?: AbortSignal
  /** How many bytes more (or again fewer) are there, by `isNew` of this call, and how many more were hashed. */
  onBytes: (bytes: number, isNew: boolean) => void
  onChecked: (bytes: number) => void
  /** Called when all of it has come, and is hashed next. */
  onFetched?: () => void
}

/** A disk that turns recorded parts bad three times in a row is not to be trusted. */
const maxRepairs = 3
const readBytes = 2 ** 20
/** What is written at once: so much, or what comes in this time. */
const writeBytes = 2 ** 20
const writeMs = 100
/** The disk is told to begin after so much, not only when a part ends: it would idle until then. */
const syncBytes = 16 * 2 ** 20

/** What a file's own name in the cache is the hash of: sha256 of it, or git's sha1 of it as a blob. */
function hasherOf({ etag, size }: HubFile): Hash {
  return etag.length === 64 ? createHash('sha256') : createHash('sha1').update(`blob ${size}\0`)
}

/** Whether the file at `path` is this one, by size and hash. */
export async function isGood(
  path: string,
  file: HubFile,
  { signal, onChecked }: Partial<Pick<Download, 'signal' | 'onChecked'>> = {},
): Promise<boolean> {
  const found = await stat(path).catch(() => undefined)
  if (!found?.isFile() || found.size !== file.size) return false
  const handle = await open(path, 'r')
  try {
    const hash = await hashRange(handle, { begin: 0, end: file.size }, hasherOf(file), signal, onChecked)
    return hash === file.etag
  } finally {
    await handle.close()
  }
}

/** Bytes of the file that earlier attempts left, recorded and complete. */
export async function recordedBytes(cache: RepositoryCache, file: HubFile, partBytes: number): Promise<number> {
  const { size } = (await stat(partialPath(cache, file)).catch(() => undefined)) ?? {}
  return size === undefined ? 0 : PartMap.recordedBytes(mapPath(cache, file), file.size, partBytes)
}

const partialPath = (cache: RepositoryCache, { etag }: HubFile) => `${cache.blob(etag)}.tutti.incomplete`
const mapPath = (cache: RepositoryCache, { etag }: HubFile) => `${cache.blob(etag)}.map.incomplete`

/** Removes what attempts left, when the blob is there. */
export async function dropPartial(cache: RepositoryCache, file: HubFile): Promise<void> {
  await rm(mapPath(cache, file), { force: true })
  await rm(partialPath(cache, file), { force: true })
}

/**
 * Fetches a file into the cache's blobs; what an earlier attempt recorded is not fetched again. The blob appears only
 * when its hash is right. Throws CheckpointError where the server's bytes are wrong, DeviceError where the network or
 * the disk fails; then calling again goes on.
 */
export async function download(options: Download): Promise<void> {
  for (let dropped = false; ; dropped = true) {
    options.signal?.throwIfAborted()
    const attempt = await Attempt.open(options)
    try {
      await attempt.fetchMissing()
      options.onFetched?.()
      await attempt.repair()
      return await attempt.finish()
    } catch (error) {
      if (error instanceof WrongContent || attempt.isEmpty) await attempt.drop()
      if (!(error instanceof RangeRefused)) throw error
      await attempt.drop()
      if (dropped) throw new DeviceError(`${error.message}, twice: try again later`, { cause: error })
    } finally {
      await attempt.close()
    }
  }
}

const tooMuch = () => new CheckpointError('the server sends more than was asked for: refused')

class WrongContent extends CheckpointError {}
/** The server answers every range with the whole file. */
class IgnoresRange extends Error {}

class Attempt {
  readonly #options: Download
  readonly #handle: FileHandle
  readonly #map: PartMap
  /** Stops the other connections when one fails. */
  readonly #stop = new AbortController()
  readonly #signal: AbortSignal
  #counted = 0
  #unsynced = 0
  #syncing: Promise<void> = Promise.resolve()
  #nextSync: Promise<void> | undefined
  #closed = false

  static async open(options: Download): Promise<Attempt> {
    const { cache, file, partBytes } = options
    const path = partialPath(cache, file)
    const left = await stat(path).catch(() => undefined)
    if (!left) await rm(mapPath(cache, file), { force: true }) // parts of a file that is gone
    const handle = await open(path, left ? 'r+' : 'wx+')
    try {
      if (left && left.size > file.size) await handle.truncate(file.size)
      return new Attempt(options, handle, await PartMap.open(mapPath(cache, file), file.size, partBytes))
    } catch (error) {
      await handle.close()
      throw error
    }
  }

  private constructor(options: Download, handle: FileHandle, map: PartMap) {
    this.#options = options
    this.#handle = handle
    this.#map = map
    this.#signal = options.signal ? AbortSignal.any([options.signal, this.#stop.signal]) : this.#stop.signal
    this.#count(map.recordedBytes, false)
  }

  /** Fetches every part that is not recorded, several at once; from one stream where the server knows no ranges. */
  async fetchMissing(): Promise<void> {
    const queue = this.#map.missing()
    const work = async () => {
      for (let part = queue.shift(); part !== undefined; part = queue.shift()) await this.#fetchPart(part)
    }
    const numConnections = Math.min(this.#options.numConnections, queue.length)
    const workers = Array.from({ length: numConnections }, () =>
      work().catch(error => {
        queue.length = 0
        if (!(error instanceof IgnoresRange)) this.#stop.abort(error)
        throw error
      }),
    )
    const ended = await Promise.allSettled(workers)
    this.#options.signal?.throwIfAborted()
    if (this.#stop.signal.aborted) throw this.#stop.signal.reason
    if (ended.some(({ status }) => status === 'rejected')) await this.#fetchWhole()
  }

  /** Compares with the file's hash. Fetches again what changed since it was recorded; if nothing did, all, once. */
  async repair(): Promise<void> {
    let again = false
    for (let repairs = 0; !(await this.#isRight()); repairs++) {
      const bad = await this.#changedParts()
      if ((bad.length === 0 && again) || repairs === maxRepairs) {
        const { file, cache } = this.#options
        throw new WrongContent(
          `${cache.id}/${file.path}: what the server sends has not the hash ${file.etag} that it promises, ` +
            'and neither had it when fetched again: nothing was kept; try another network, or later',
        )
      }
      if (bad.length === 0) again = true
      const parts = bad.length > 0 ? bad : this.#map.all()
      for (const part of parts) this.#count(-this.#size(part))
      await this.#map.forget(parts)
      await this.fetchMissing()
    }
  }

  /** Makes the blob of it, unless another program made a good one meanwhile. */
  async finish(): Promise<void> {
    const { cache, file } = this.#options
    await this.#handle.sync()
    await this.close()
    const blob = cache.blob(file.etag)
    if (!(await isGood(blob, file, this.#options))) {
      await rename(partialPath(cache, file), blob)
      await syncFolder(dirname(blob))
    }
    await dropPartial(cache, file)
  }

  /** Nothing is recorded that would be worth keeping. */
  get isEmpty(): boolean {
    return this.#map.recordedBytes === 0
  }

  async drop(): Promise<void> {
    this.#count(-this.#counted)
    await this.close()
    await dropPartial(this.#options.cache, this.#options.file)
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#handle.close()
    await this.#map.close()
  }

  /** Fetches a part, going on where a connection breaks. */
  async #fetchPart(part: number): Promise<void> {
    const { begin, end } = this.#map.range(part)
    const hash = createHash('sha256')
    let at = begin
    try {
      await this.#persist(async progress => {
        for await (const bytes of gathered(await this.#open({ begin: at, end }))) {
          if (bytes.length > end - at) throw tooMuch()
          const written = this.#write(bytes, at)
          hash.update(bytes)
          await written
          at += bytes.length
          this.#count(bytes.length)
          progress.made = true
        }
        return at === end
      })
      await this.#record(part, hash)
    } catch (error) {
      this.#count(begin - at)
      throw error
    }
  }

  async #open(range: Range): Promise<AsyncIterable<Buffer>> {
    const { client, cache, commit, file } = this.#options
    const all = range.begin === 0 && range.end === file.size
    const asked = { id: cache.id, commit, file, range: all ? undefined : range }
    const { whole, body } = await client.content(asked, this.#signal)
    if (!whole || all) return body
    for await (const _ of body) break // closes it
    throw new IgnoresRange()
  }

  /** Fetches the whole file as one stream, keeping the parts that are missing. */
  async #fetchWhole(): Promise<void> {
    const { client, cache, commit, file } = this.#options
    const missing = new Set(this.#map.missing())
    await this.#persist(async progress => {
      const { body } = await client.content({ id: cache.id, commit, file }, this.#signal)
      let at = 0
      let hash = createHash('sha256')
      for await (let chunk of gathered(body)) {
        if (chunk.length > file.size - at) throw tooMuch()
        while (chunk.length > 0) {
          const part = this.#map.partAt(at)
          const { end } = this.#map.range(part)
          const piece = chunk.subarray(0, end - at)
          chunk = chunk.subarray(piece.length)
          if (missing.has(part)) {
            await this.#write(piece, at)
            hash.update(piece)
          }
          at += piece.length
          if (at < end) continue
          if (missing.delete(part)) {
            await this.#record(part, hash)
            this.#count(this.#size(part))
            progress.made = true
          }
          hash = createHash('sha256')
        }
      }
      return missing.size === 0
    })
  }

  /** Calls `stream` until it is done; gives up after some tries that brought nothing. */
  async #persist(stream: (progress: { made: boolean }) => Promise<boolean>): Promise<void> {
    for (let tries = 1; ; tries++) {
      const progress = { made: false }
      const failure = await stream(progress).then(
        done => (done ? undefined : new Unreachable('the answer ended before all of it had come')),
        error => error,
      )
      if (failure === undefined) return
      if (!(failure instanceof Unreachable) || (tries === maxTries && !progress.made)) throw failure
      if (progress.made) tries = 1
      await this.#options.client.pause(tries, failure, this.#signal)
    }
  }

  async #write(bytes: Buffer, position: number): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await this.#handle.write(bytes, done, bytes.length - done, position + done)
      done += bytesWritten
    }
    this.#unsynced += bytes.length
    if (this.#unsynced < syncBytes) return
    this.#unsynced = 0
    this.#sync().catch(() => {}) // whoever records a part hears of it
  }

  /** Waits until the disk has all that was written before. Who asks while that goes on for others shares the next turn. */
  #sync(): Promise<void> {
    const running = this.#syncing
    this.#nextSync ??= running.then(() => {
      this.#syncing = this.#nextSync!
      this.#nextSync = undefined
      return this.#handle.datasync()
    })
    return this.#nextSync
  }

  /** A part counts as there only when the disk has it. */
  async #record(part: number, hash: Hash): Promise<void> {
    await this.#sync()
    await this.#map.record(part, hash.digest('hex'))
  }

  async #isRight(): Promise<boolean> {
    const { file, signal, onChecked } = this.#options
    let checked = 0
    const hash = await hashRange(this.#handle, { begin: 0, end: file.size }, hasherOf(file), signal, bytes => {
      checked += bytes
      onChecked(bytes)
    })
    if (hash !== file.etag) onChecked(-checked)
    return hash === file.etag
  }

  async #changedParts(): Promise<number[]> {
    const changed: number[] = []
    for (const part of this.#map.all()) {
      const hash = await hashRange(this.#handle, this.#map.range(part), createHash('sha256'), this.#signal)
      if (hash !== this.#map.hashOf(part)) changed.push(part)
    }
    return changed
  }

  #size(part: number): number {
    const { begin, end } = this.#map.range(part)
    return end - begin
  }

  #count(bytes: number, isNew = true): void {
    this.#counted += bytes
    this.#options.onBytes(bytes, isNew)
  }
}

/**
 * Joins what comes fast, so that the disk is asked seldom: what is given holds until the next. What came before an error
 * is given before it.
 */
async function* gathered(body: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const buffer = Buffer.allocUnsafeSlow(writeBytes)
  let size = 0
  let since = 0
  try {
    for await (let chunk of body) {
      while (chunk.length > 0) {
        if (size === 0) since = performance.now()
        const taken = chunk.copy(buffer, size)
        chunk = chunk.subarray(taken)
        size += taken
        if (size < writeBytes && performance.now() - since < writeMs) continue
        yield buffer.subarray(0, size)
        size = 0
      }
    }
  } catch (error) {
    if (size > 0) yield buffer.subarray(0, size)
    throw error
  }
  if (size > 0) yield buffer.subarray(0, size)
}

/** Hashes a range of a file, as far as the file goes, reading ahead while it hashes. */
async function hashRange(
  handle: FileHandle,
  { begin, end }: Range,
  hash: Hash,
  signal?: AbortSignal,
  onChecked: (bytes: number) => void = () => {},
): Promise<string> {
  const buffers = [Buffer.allocUnsafe(readBytes), Buffer.allocUnsafe(readBytes)]
  const read = async (at: number, turn: number) =>
    at < end ? (await handle.read(buffers[turn], 0, Math.min(readBytes, end - at), at)).bytesRead : 0
  let turn = 0
  let at = begin
  for (let size = await read(at, turn); size > 0; ) {
    signal?.throwIfAborted()
    const next = read(at + size, 1 - turn)
    hash.update(buffers[turn].subarray(0, size))
    onChecked(size)
    at += size
    turn = 1 - turn
    size = await next
  }
  return hash.digest('hex')
}

/** Makes a rename last. Windows cannot, and need not. */
async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r').catch(() => undefined)
  await folder?.sync().catch(() => {})
  await folder?.close()
}

/** An error of the file system as a sentence; others as they are. */
export function explainDisk(error: unknown, path: string): unknown {
  const cures: Record<string, string> = {
    ENOSPC: `the disk that holds ${path} is full: make room and run the command again; what is there is kept`,
    EDQUOT: `your quota on the disk that holds ${path} is used up: make room and run the command again`,
    EACCES: `this user may not write in ${path}: change its permissions, or set HF_HOME to another folder`,
    EROFS: `${path} is on a disk that cannot be written: set HF_HOME to another folder`,
    EIO: `the disk that holds ${path} reports an error: check it`,
  }
  const cure = cures[(error as NodeJS.ErrnoException)?.code ?? '']
  return cure ? new DeviceError(cure, { cause: error }) : error
}
