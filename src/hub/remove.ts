import { existsSync, lstatSync, readdirSync } from 'node:fs'
import { rm, rmdir } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { DeviceError } from '../base/errors.ts'
import { packedFiles } from '../checkpoint/packed.node.ts'
import { openFolder } from '../checkpoint/source.node.ts'
import { keptFiles } from '../device/kept-matrices.node.ts'
import { explainDisk } from './download.ts'
import { lockFile } from './file-lock.ts'
import type { RepositoryCache } from './hub-cache.ts'
import { filesOf, type SnapshotFile, showBytes } from './models.ts'
import { type FileRecord, fingerprintOf, RepositoryRecords, type SnapshotRecord } from './records.ts'

/** What removing a model takes away, and what it leaves. */
export interface Removal {
  readonly cache: RepositoryCache
  readonly records: RepositoryRecords
  readonly snapshots: readonly SnapshotRemoval[]
  /** Blobs that nothing links to afterwards, and what unfinished downloads left. */
  readonly blobs: readonly string[]
  /** Files that tutti made of the model, in its own cache. */
  readonly derived: readonly string[]
  /** That become free. */
  readonly bytes: { readonly model: number; readonly unfinished: number; readonly derived: number }
  /** What stays and why, a sentence each. */
  readonly left: readonly string[]
}

interface SnapshotRemoval {
  readonly commit: string
  readonly path: string
  readonly files: readonly SnapshotFile[]
  /** Nothing stays in it, so that it goes with the branches and tags that stand for it. */
  readonly isWhole: boolean
  readonly revisions: readonly string[]
}

/**
 * Finds what may be removed of a repository: files that tutti placed, by its own records, and blobs that no other file
 * links to. `cacheFolder`: tutti's own.
 */
export async function planRemoval(cache: RepositoryCache, cacheFolder: string): Promise<Removal> {
  const records = new RepositoryRecords(cacheFolder, cache.root)
  const snapshots: SnapshotRemoval[] = []
  const placed = new Set<string>()
  const staying: Staying[] = []
  for (const commit of new Set([...cache.commits(), ...(await records.commits())])) {
    const path = cache.snapshot(commit)
    const record = await records.read(commit)
    const files = await filesOf(path).catch(() => []) // an earlier removal was broken off
    const placedFiles = await filterPlaced(cache, path, record)
    for (const { hash } of placedFiles.values()) placed.add(hash)
    const ours = files.filter(file => placedFiles.has(file.path))
    const others = files.filter(file => !placedFiles.has(file.path))
    if (others.length > 0) staying.push({ commit, files: others, isPart: ours.length > 0 })
    if (ours.length === 0 && (others.length > 0 || record.size === 0)) continue
    const isWhole = others.length === 0
    snapshots.push({ commit, path, files: ours, isWhole, revisions: isWhole ? cache.revisionsOf(commit) : [] })
  }
  const blobs = sortBlobs(cache, placed, staying)
  const plain = snapshots.flatMap(({ files }) => files.filter(({ blob }) => blob === undefined).map(({ at }) => at))
  const derived = await derivedFiles(snapshots, cacheFolder)
  return {
    ...{ cache, records, snapshots, derived },
    blobs: [...blobs.free, ...blobs.partial],
    bytes: { model: bytesOf([...blobs.free, ...plain]), unfinished: bytesOf(blobs.partial), derived: bytesOf(derived) },
    left: [...staying.map(explainStaying), ...explainBlobs(blobs)],
  }
}

/** The files that tutti placed and nobody has replaced since, there or with their link gone. */
async function filterPlaced(cache: RepositoryCache, snapshot: string, record: SnapshotRecord): Promise<SnapshotRecord> {
  const placed = new Map<string, FileRecord>()
  for (const [path, known] of record) {
    if (!known.isPlaced) continue
    const link = join(snapshot, path)
    const isThere = lstatSync(link, { throwIfNoEntry: false }) !== undefined
    const found = await fingerprintOf(isThere ? link : cache.blob(known.hash)).catch(() => undefined)
    if (!found || found.inode === known.inode) placed.set(path, known)
  }
  return placed
}

/** Files of a snapshot that are not ours to remove; a part of them, if others are. */
interface Staying {
  readonly commit: string
  readonly files: readonly SnapshotFile[]
  readonly isPart: boolean
}

/** The repository's blobs, by what becomes of them. */
interface Blobs {
  readonly free: readonly string[]
  readonly partial: readonly string[]
  /** They would be free, were they not linked by what stays. */
  readonly shared: readonly string[]
  /** Nothing links to them, and we did not make them. */
  readonly foreign: readonly string[]
}

function sortBlobs(
  { blobs: folder }: RepositoryCache,
  placed: ReadonlySet<string>,
  staying: readonly Staying[],
): Blobs {
  const linked = new Set(staying.flatMap(({ files }) => files.map(({ blob }) => blob)))
  const names = existsSync(folder) ? readdirSync(folder) : []
  const kindOf = (name: string): keyof Blobs | 'linked' => {
    if (placed.has(name)) return linked.has(name) ? 'shared' : 'free'
    if (unfinished.test(name)) return 'partial'
    return linked.has(name) ? 'linked' : 'foreign'
  }
  const those = (kind: keyof Blobs) => names.filter(name => kindOf(name) === kind).map(name => join(folder, name))
  return { free: those('free'), partial: those('partial'), shared: those('shared'), foreign: those('foreign') }
}

/** The partial files of tutti's downloads and their maps: Python's end in `.incomplete` too. */
const unfinished = /^[0-9a-f]{40,64}\.(?:tutti|map)\.incomplete$/

/** A link to a blob elsewhere takes no room of its own. */
const bytesOf = (paths: readonly string[]): number =>
  paths.map(path => lstatSync(path)).reduce((sum, found) => sum + (found.isFile() ? found.size : 0), 0)

/** What tutti made of models that lie in these snapshots. */
async function derivedFiles(snapshots: readonly SnapshotRemoval[], cacheFolder: string): Promise<string[]> {
  const found: string[] = []
  for (const { path, isWhole } of snapshots) {
    if (!isWhole || !existsSync(path)) continue
    for (const folder of [path, join(path, 'original')].filter(existsSync)) {
      found.push(...(await keptFiles(folder, cacheFolder)))
    }
    // A model that is damaged cannot be opened; what was made of it goes when nobody has used it for a month.
    found.push(...(await packedFiles(await openFolder(path), cacheFolder).catch(() => [])))
  }
  return found
}

function explainStaying({ commit, files, isPart }: Staying): string {
  const short = commit.slice(0, 8)
  const what = isPart ? `of snapshot ${short} ${list(files.map(({ path }) => path))}` : `snapshot ${short}`
  return `${what}: not pulled by tutti, as far as its records say; hf cache rm ${commit} removes all of the snapshot`
}

function explainBlobs({ shared, foreign }: Blobs): string[] {
  const size = (paths: readonly string[]) => `${count(paths.length, 'blob')} (${showBytes(bytesOf(paths))})`
  return [
    ...(shared.length > 0 ? [`${size(shared)}: files that stay link to them`] : []),
    ...(foreign.length > 0
      ? [`${size(foreign)}: other programs made them, and no snapshot links to them; hf cache prune removes those`]
      : []),
  ]
}

/** The first few. */
const list = (names: readonly string[]) =>
  names.slice(0, 3).join(', ') + (names.length > 3 ? `, … (${names.length})` : '')

const count = (number: number, what: string): string => `${number} ${what}${number === 1 ? '' : 's'}`

/**
 * Removes what was planned. Broken off at any point it leaves a cache without faults, and can be repeated. Throws
 * DeviceError, before anything is removed, where another process downloads one of the files.
 */
export async function remove({ cache, records, snapshots, blobs, derived }: Removal): Promise<void> {
  const releases: (() => Promise<void>)[] = []
  try {
    const etags = new Set(blobs.map(path => basename(path).split('.')[0]))
    for (const etag of etags) releases.push(await lockNow(join(cache.locks, `${etag}.tutti.lock`), cache))
    for (const path of derived) await rm(path, { force: true }) // while the snapshots tell which they are
    for (const { path, files, isWhole, revisions } of snapshots) {
      for (const revision of revisions) await removeUp(join(cache.root, 'refs', ...revision.split('/')), cache.root)
      for (const { at } of files) await removeUp(at, isWhole ? dirname(path) : path)
    }
    for (const path of blobs) await rm(path, { force: true })
    for (const snapshot of snapshots) await forget(records, snapshot) // last: they say what to remove
    await removeEmpty(cache)
  } catch (error) {
    throw explainDisk(error, cache.root)
  } finally {
    for (const release of releases) await release()
  }
}

/** Takes a lock that nobody has. */
async function lockNow(path: string, { id }: RepositoryCache): Promise<() => Promise<void>> {
  const stop = new AbortController()
  const onWait = (pid: number) =>
    stop.abort(new DeviceError(`another tutti (process ${pid}) downloads ${id} now: wait until it is done, or stop it`))
  return lockFile(path, { signal: stop.signal, onWait })
}

/** Removes a file, and the folders that it leaves empty, below `top`. */
async function removeUp(path: string, top: string): Promise<void> {
  await rm(path, { force: true })
  try {
    for (let folder = dirname(path); folder !== top; folder = dirname(folder)) await rmdir(folder)
  } catch {
    // something else lies there
  }
}

async function forget(records: RepositoryRecords, { commit, files, isWhole }: SnapshotRemoval): Promise<void> {
  if (isWhole) return records.remove(commit)
  await records.update(commit, record => {
    for (const { path } of files) record.delete(path)
  })
}

/** A repository without snapshots, blobs and refs has nothing that anybody could want. */
async function removeEmpty(cache: RepositoryCache): Promise<void> {
  const isEmpty = (name: string) => readdirSync(join(cache.root, name)).length === 0
  const mustBeEmpty = ['snapshots', 'blobs', 'refs'].filter(name => existsSync(join(cache.root, name)))
  const known = ['snapshots', 'blobs', 'refs', '.no_exist', 'trees']
  const onlyKnown = readdirSync(cache.root).every(name => known.includes(name))
  if (onlyKnown && mustBeEmpty.every(isEmpty)) await rm(cache.root, { recursive: true, force: true })
}
