import { realpath } from 'node:fs/promises'
import { sep } from 'node:path'
import { CheckpointError } from '../base/errors.ts'
import type { Checkpoint } from '../checkpoint/checkpoint.ts'
import { openPacked, type PackOptions } from '../checkpoint/packed.node.ts'
import type { Folder } from '../checkpoint/source.ts'
import { pullCommand, RepositoryCache } from './hub-cache.ts'
import { type FileRecord, fingerprintOf, hashAgain, isSame, RepositoryRecords } from './records.ts'

/**
 * Opens a checkpoint as `openPacked` does, after comparing its files with what was recorded when they were pulled. A file
 * that was touched since is hashed again, which `onProgress` tells of. Throws CheckpointError.
 */
export async function openChecked(folder: Folder, options: PackOptions): Promise<Checkpoint> {
  let hashed = 0
  const onProgress = (done: number, total: number) => options.onProgress?.((hashed = done), total)
  try {
    await checkRecorded(folder, { ...options, onProgress })
  } catch (error) {
    await folder.close()
    throw error
  }
  return openPacked(folder, {
    ...options,
    onProgress: (done, total) => options.onProgress?.(hashed + done, hashed + total),
  })
}

/** A snapshot in Hugging Face's cache, and the part of it that a path leads to. */
interface SnapshotPath {
  readonly cache: RepositoryCache
  readonly commit: string
  /** `` or `original/`. */
  readonly inner: string
}

/** What a model's folder is in the cache; undefined where it lies elsewhere. */
async function snapshotAt(folder: string): Promise<SnapshotPath | undefined> {
  const path = await realpath(folder).catch(() => '')
  const [, root, commit, rest = ''] = /^(.+)[/\\]snapshots[/\\]([0-9a-f]{40})(?:[/\\](.+))?$/.exec(path) ?? []
  const cache = root && RepositoryCache.at(root)
  return cache ? { cache, commit, inner: rest && `${rest.replaceAll(sep, '/')}/` } : undefined
}

/** What was recorded of a file, by its name, in a model's folder. Nothing where the model was not pulled. */
export async function recordedIn(
  folder: string,
  cacheFolder: string | undefined,
): Promise<(name: string) => FileRecord | undefined> {
  const snapshot = cacheFolder === undefined ? undefined : await snapshotAt(folder)
  if (!snapshot) return () => undefined
  const record = await new RepositoryRecords(cacheFolder!, snapshot.cache.root).read(snapshot.commit)
  return name => record.get(snapshot.inner + name)
}

/** Compares the files that loading reads with their record, if there is one. Takes milliseconds where they are the same. */
async function checkRecorded(folder: Folder, { folder: cacheFolder, onProgress, signal }: PackOptions): Promise<void> {
  const snapshot = folder.pathOf && cacheFolder !== undefined ? await snapshotAt(folder.path) : undefined
  if (!snapshot) return
  const { cache, commit, inner } = snapshot
  const records = new RepositoryRecords(cacheFolder!, cache.root)
  const record = await records.read(commit)
  const touched: { path: string; at: string; known: FileRecord }[] = []
  for (const name of await filesRead(folder)) {
    const [path, at] = [inner + name, folder.pathOf!(name)]
    const known = record.get(path)
    if (known && !(await isAsRecorded(at, known, cureOf(snapshot, path)))) touched.push({ path, at, known })
  }
  const toHash = touched.reduce((sum, { known }) => sum + known.size, 0)
  const total = toHash + (touched.length > 0 ? await bytesOf(folder) : 0)
  let hashed = 0
  for (const { path, at, known } of touched) {
    const onChecked = (bytes: number) => onProgress?.((hashed += bytes), total)
    const fresh = await hashAgain(at, path, known, { signal, onChecked })
    await records.renew(commit, path, fresh).catch(() => {}) // it is hashed again next time
    if (fresh.isBad) damaged(at, known, cureOf(snapshot, path))
  }
  await records.touch(commit).catch(() => {}) // nobody will know when it was used
}

/** The weights, their index and the configuration, of the layout that is read. */
async function filesRead(folder: Folder): Promise<string[]> {
  const names = await folder.list()
  const here = names.some(name => /^[^/]+\.safetensors(\.index\.json)?$/.test(name)) ? '' : 'original/'
  const isRead = (name: string) => /^(config\.json|[^/]+\.safetensors(\.index\.json)?)$/.test(name)
  return names.filter(name => name === 'config.json' || (name.startsWith(here) && isRead(name.slice(here.length))))
}

/** Whether a file need not be hashed. Throws where it must be another one. */
async function isAsRecorded(at: string, known: FileRecord, cure: string): Promise<boolean> {
  const found = await fingerprintOf(at)
  if (found.size !== known.size) {
    throw new CheckpointError(
      `${at} has ${found.size} bytes, and had ${known.size} when it was downloaded: it is damaged; ${cure}`,
    )
  }
  if (!isSame(found, known)) return false
  if (known.isBad) damaged(at, known, cure)
  return true
}

const cureOf = ({ cache, commit }: SnapshotPath, path: string): string =>
  `${pullCommand(cache, commit, path)} fetches it again`

function damaged(at: string, { size, hash }: FileRecord, cure: string): never {
  const kind = hash.length === 64 ? 'sha256' : 'git sha1'
  throw new CheckpointError(`the ${size} bytes of ${at} no longer have the ${kind} ${hash}: it is damaged; ${cure}`)
}

async function bytesOf(folder: Folder): Promise<number> {
  const files = (await filesRead(folder)).filter(name => name.endsWith('.safetensors'))
  const sizes = await Promise.all(files.map(name => folder.size(name)))
  return sizes.reduce((sum, size) => sum + size, 0)
}
