import { mkdir, readdir, readFile, realpath, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { digest, partialPath, removePartials } from '../base/cache-files.node.ts'
import { type JsonValue, parseJson } from '../base/json.ts'
import { isGood } from './download.ts'
import { lockFile } from './file-lock.ts'

/** What the system tells of a file without reading it. Times in nanoseconds and inodes are text: both outgrow a float64. */
export interface Fingerprint {
  readonly size: number
  readonly mtime: string
  readonly inode: string
}

/** A file of a snapshot, as it was when it was hashed. */
export interface FileRecord extends Fingerprint {
  /** As blobs are named: sha256, or git's sha1 for small files. */
  readonly hash: string
  /** When it was hashed, in ISO 8601. */
  readonly verified: string
  /** It had another hash then. */
  readonly isBad?: boolean
  /** tutti gave it its name in the snapshot, so that tutti may take it away. */
  readonly isPlaced?: boolean
}

/** By the path in the snapshot, with `/` on every system. */
export type SnapshotRecord = ReadonlyMap<string, FileRecord>

const version = 1

/** Throws what `stat` throws. */
export async function fingerprintOf(path: string): Promise<Fingerprint> {
  const { size, mtimeNs, ino } = await stat(path, { bigint: true })
  return { size: Number(size), mtime: String(mtimeNs), inode: String(ino) }
}

export function isSame(a: Fingerprint, b: Fingerprint): boolean {
  return a.size === b.size && a.mtime === b.mtime && a.inode === b.inode
}

/** The record of a file that is hashed now. What changes meanwhile is seen next time. Rejects with `signal.reason`. */
export async function hashAgain(
  at: string,
  path: string,
  known: Pick<FileRecord, 'hash' | 'size' | 'isPlaced'>,
  check: { signal?: AbortSignal; onChecked?: (bytes: number) => void },
): Promise<FileRecord> {
  const { hash, size, isPlaced } = known
  const found = await fingerprintOf(at)
  const isRight = await isGood(at, { path, size, etag: hash }, check)
  const verified = new Date().toISOString()
  return { hash, ...found, size, verified, ...(!isRight && { isBad: true }), ...(isPlaced && { isPlaced }) }
}

/**
 * What tutti knows of one repository in Hugging Face's cache, kept in tutti's own: for each snapshot a JSON file with its
 * files' hashes, and an empty one whose time is that of the last load. Both can be lost without harm, and a file that is
 * damaged or of another version counts as none.
 */
export class RepositoryRecords {
  readonly #cacheFolder: string
  readonly #root: string

  /** `root`: the repository's folder, `models--…`. */
  constructor(cacheFolder: string, root: string) {
    this.#cacheFolder = cacheFolder
    this.#root = root
  }

  /** The commits that something is known of. */
  async commits(): Promise<string[]> {
    const names = await readdir(await this.#folder()).catch(() => [])
    return names.flatMap(name => /^([0-9a-f]{40})\.json$/.exec(name)?.[1] ?? [])
  }

  /** Empty where nothing is known. */
  async read(commit: string): Promise<Map<string, FileRecord>> {
    return parseRecord(await readFile(await this.#path(commit, 'json'), 'utf8').catch(() => ''))
  }

  /** Changes a snapshot's record. Others that do the same meanwhile wait. Throws where nothing can be written. */
  async update(commit: string, change: (record: Map<string, FileRecord>) => unknown): Promise<void> {
    const folder = await this.#folder()
    await mkdir(folder, { recursive: true })
    const release = await lockFile(await this.#path(commit, 'lock'))
    try {
      await removePartials(folder)
      const record = await this.read(commit)
      change(record)
      const partial = partialPath(folder)
      await writeFile(partial, `${JSON.stringify({ version, files: Object.fromEntries(record) }, undefined, 1)}\n`)
      await rename(partial, await this.#path(commit, 'json'))
    } finally {
      await release()
    }
  }

  /** Takes in that a file was hashed; a bad one is bad in every snapshot that has the same. */
  async renew(commit: string, path: string, fresh: FileRecord): Promise<void> {
    await this.update(commit, record => record.set(path, fresh))
    if (!fresh.isBad) return
    for (const other of await this.commits()) {
      await this.update(other, record => {
        for (const [path, known] of record) {
          if (known.hash === fresh.hash && isSame(known, fresh)) record.set(path, { ...known, isBad: true })
        }
      })
    }
  }

  /** Forgets a snapshot. */
  async remove(commit: string): Promise<void> {
    for (const ending of ['json', 'used']) await rm(await this.#path(commit, ending), { force: true })
  }

  /** Notes that a snapshot is loaded now. */
  async touch(commit: string): Promise<void> {
    const path = await this.#path(commit, 'used')
    const now = new Date()
    await utimes(path, now, now).catch(async () => {
      await mkdir(await this.#folder(), { recursive: true })
      await writeFile(path, '')
    })
  }

  async lastUsed(commit: string): Promise<Date | undefined> {
    return (await stat(await this.#path(commit, 'used')).catch(() => undefined))?.mtime
  }

  async #path(commit: string, ending: string): Promise<string> {
    return join(await this.#folder(), `${commit}.${ending}`)
  }

  /** Repositories of the same name may lie in several caches. */
  async #folder(): Promise<string> {
    const root = await realpath(this.#root).catch(() => resolve(this.#root))
    return join(this.#cacheFolder, 'records', `${basename(root)}-${digest(root)}`)
  }
}

function parseRecord(text: string): Map<string, FileRecord> {
  const files = new Map<string, FileRecord>()
  let read: JsonValue = null
  try {
    read = parseJson(text)
  } catch {
    // damaged, or none
  }
  const entries = read instanceof Map && read.get('version') === version ? read.get('files') : undefined
  if (!(entries instanceof Map)) return files
  for (const [path, entry] of entries) {
    const file = parseFile(entry)
    if (file) files.set(path, file)
  }
  return files
}

function parseFile(entry: JsonValue): FileRecord | undefined {
  if (!(entry instanceof Map)) return undefined
  const text = (name: string, pattern: RegExp) => {
    const value = entry.get(name)
    return typeof value === 'string' && pattern.test(value) ? value : undefined
  }
  const size = entry.get('size')
  const hash = text('hash', /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/)
  const [mtime, inode] = [text('mtime', /^-?\d+$/), text('inode', /^\d+$/)]
  const verified = text('verified', /^\d{4}-\d\d-\d\dT[\d:.]+Z$/)
  if (typeof size !== 'number' || !hash || !mtime || !inode || !verified) return undefined
  const [isBad, isPlaced] = ['isBad', 'isPlaced'].map(name => entry.get(name) === true)
  return { ...{ hash, size, mtime, inode, verified }, ...(isBad && { isBad }), ...(isPlaced && { isPlaced }) }
}
