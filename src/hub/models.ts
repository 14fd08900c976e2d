import { existsSync, readdirSync, realpathSync } from 'node:fs'
import { readdir, readlink, realpath, stat } from 'node:fs/promises'
import { basename, dirname, join, sep } from 'node:path'
import { readJsonObject } from '../checkpoint/index-file.ts'
import { openFolder } from '../checkpoint/source.node.ts'
import { readConfig } from '../model/config.ts'
import type { HubEnvironment } from './environment.ts'
import { layoutsOf, nameOf, pullCommand, RepositoryCache } from './hub-cache.ts'
import type { Layout } from './plan.ts'
import { ProgressMeter, type PullProgress } from './progress.ts'
import { type FileRecord, fingerprintOf, hashAgain, RepositoryRecords } from './records.ts'

/** A model in Hugging Face's cache: one snapshot of a repository, or what an unfinished `tutti pull` left. */
export interface CachedModel {
  /** What `tutti pull` calls it; `--model` too, if `main` is among its revisions. */
  readonly name: string
  readonly id: string
  /** The folder to load; of an unfinished one that of the repository. */
  readonly path: string
  /** Of an unfinished one nothing is known. */
  readonly commit?: string
  /** The branches and tags that stand for it. */
  readonly revisions: readonly string[]
  /** Those of which all files are there. */
  readonly layouts: readonly Layout[]
  /** On the disk; snapshots may share some. */
  readonly bytes: number
  /** When the hash of the file was compared that was compared longest ago, in ISO 8601; undefined if one never was. */
  readonly verified?: string
  /** Files that were found damaged then. */
  readonly damaged: readonly string[]
  readonly lastUsed?: string
  /** Whether tutti named files of it, which `tutti rm` removes. */
  readonly isPulled: boolean
}

export interface CacheOptions {
  environment: HubEnvironment
  /** tutti's own cache folder, where it has records; undefined where this user has none. */
  recordFolder: string | undefined
}

/** A file of a snapshot. */
export interface SnapshotFile {
  /** In the snapshot, with `/` on every system. */
  readonly path: string
  readonly at: string
  /** The name of the blob that it is a link to. */
  readonly blob?: string
}

/** The models in the cache that tutti can run, whoever downloaded them, by name. */
export async function listModels(options: CacheOptions): Promise<CachedModel[]> {
  const { cache } = options.environment
  const names = existsSync(cache) ? readdirSync(cache) : []
  const repositories = names.flatMap(name => RepositoryCache.at(join(cache, name)) ?? [])
  const models = await Promise.all(repositories.map(repository => modelsOf(repository, options)))
  return models.flat().sort((a, b) => a.name.localeCompare(b.name, 'en') || a.path.localeCompare(b.path, 'en'))
}

async function modelsOf(cache: RepositoryCache, { recordFolder }: CacheOptions): Promise<CachedModel[]> {
  const records = recordFolder === undefined ? undefined : new RepositoryRecords(recordFolder, cache.root)
  const found = await Promise.all(cache.commits().map(commit => describe(cache, commit, records)))
  const models = found.filter(model => model !== undefined)
  return models.some(({ layouts }) => layouts.length > 0) ? models : [...models, ...unfinished(cache)]
}

async function describe(
  cache: RepositoryCache,
  commit: string,
  records: RepositoryRecords | undefined,
): Promise<CachedModel | undefined> {
  const path = cache.snapshot(commit)
  const record = (await records?.read(commit)) ?? new Map<string, FileRecord>()
  const isOurs = record.size > 0 || /gpt-oss/i.test(cache.id) // even where its config.json is damaged
  if (!isOurs && !(await isGptOss(path))) return undefined
  const files = await filesOf(path)
  const times = files.map(file => record.get(file.path)?.verified)
  const lastUsed = await records?.lastUsed(commit)
  return {
    ...{ name: nameOf(cache.id), id: cache.id, path, commit },
    revisions: cache.revisionsOf(commit),
    layouts: layoutsOf(path),
    bytes: await bytesOf(files),
    ...(times.length > 0 && times.every(time => time !== undefined) && { verified: times.sort()[0] }),
    damaged: [...record].filter(([, { isBad }]) => isBad).map(([path]) => path),
    ...(lastUsed && { lastUsed: lastUsed.toISOString() }),
    isPulled: [...record.values()].some(({ isPlaced }) => isPlaced),
  }
}

async function isGptOss(snapshot: string): Promise<boolean> {
  const folder = await openFolder(snapshot)
  try {
    const name = (await folder.list()).find(name => /^(original\/)?config\.json$/.test(name))
    return name !== undefined && readConfig(await readJsonObject(folder, name), name) !== undefined
  } catch {
    return false // another architecture
  } finally {
    await folder.close()
  }
}

/** What `tutti pull` fetched before it was interrupted. */
function unfinished(cache: RepositoryCache): CachedModel[] {
  const names = existsSync(cache.blobs) ? readdirSync(cache.blobs) : []
  if (!names.some(name => name.endsWith('.tutti.incomplete'))) return []
  const about = { name: nameOf(cache.id), id: cache.id, path: cache.root }
  return [{ ...about, revisions: [], layouts: [], bytes: 0, damaged: [], isPulled: false }]
}

/** All files of a snapshot, links that lead nowhere among them. */
export async function filesOf(snapshot: string): Promise<SnapshotFile[]> {
  const entries = await readdir(snapshot, { recursive: true, withFileTypes: true })
  const files = entries.filter(entry => !entry.isDirectory())
  const found = files.map(async entry => {
    const at = join(entry.parentPath, entry.name)
    const path = at.slice(snapshot.length + 1).replaceAll(sep, '/')
    const target = entry.isSymbolicLink() ? await readlink(at) : ''
    return { path, at, ...(basename(dirname(target)) === 'blobs' && { blob: basename(target) }) }
  })
  return (await Promise.all(found)).sort((a, b) => (a.path < b.path ? -1 : 1))
}

/** Files that several links lead to count once. */
async function bytesOf(files: readonly SnapshotFile[]): Promise<number> {
  const sizes = new Map<string, number>()
  for (const { at } of files) {
    const found = await stat(at).catch(() => undefined)
    if (found) sizes.set(await realpath(at), found.size)
  }
  return [...sizes.values()].reduce((sum, size) => sum + size, 0)
}

/** The models that a person means by a name or a folder. */
export function findModels(models: readonly CachedModel[], name: string): CachedModel[] {
  const path = existsSync(name) ? realpathSync(name) : undefined
  return models.filter(model => [model.name, model.id].includes(name) || (path && realpathSync(model.path) === path))
}

export interface Verification {
  readonly model: CachedModel
  readonly numFiles: number
  /** Files whose bytes are not those that were published. */
  readonly bad: readonly BadFile[]
  /** Files that nobody has a hash of: Python's libraries downloaded them where no links can be made. */
  readonly unknown: readonly string[]
}

export interface BadFile {
  readonly path: string
  /** A clause: `has 17 bytes, expected 18`. */
  readonly problem: string
  /** The command that fetches it again. */
  readonly cure: string
}

export interface VerifyOptions extends CacheOptions {
  signal?: AbortSignal
  /** Called a few times a second. */
  onProgress?: (progress: PullProgress) => void
}

/**
 * Hashes every file of models, and records what it finds. The hash that a file should have is the one that was recorded
 * when it was pulled, or the name of its blob. Rejects with `signal.reason`.
 */
export async function verifyModels(models: readonly CachedModel[], options: VerifyOptions): Promise<Verification[]> {
  const meter = new ProgressMeter(options.onProgress)
  const total = models.reduce((sum, { bytes }) => sum + bytes, 0)
  meter.expect(total)
  meter.found(total)
  const found: Verification[] = []
  for (const model of models) found.push(await verifyModel(model, meter, options))
  meter.tell()
  return found
}

async function verifyModel(model: CachedModel, meter: ProgressMeter, options: VerifyOptions): Promise<Verification> {
  const { path: snapshot, commit } = model
  const { signal, recordFolder } = options
  const cache = RepositoryCache.at(dirname(dirname(snapshot)))
  if (commit === undefined || !cache) return { model, numFiles: 0, bad: [], unknown: [] }
  const records = recordFolder === undefined ? undefined : new RepositoryRecords(recordFolder, cache.root)
  const record = (await records?.read(commit)) ?? new Map<string, FileRecord>()
  const files = await filesOf(snapshot)
  const gone = [...record.keys()].filter(path => !files.some(file => file.path === path))
  const bad = gone.map(path => ({ path, problem: 'is gone' }))
  const unknown: string[] = []
  const hashed = new Map<string, FileRecord>() // by blob
  for (const file of files) {
    const { path, blob = '' } = file
    const known = record.get(path)
    const hash = known?.hash ?? /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/.exec(blob)?.[0]
    if (hash === undefined) {
      if (isLoaded(path)) unknown.push(path)
      continue
    }
    const check = { signal, onChecked: (bytes: number) => meter.checked(path, bytes) }
    const fresh = hashed.get(blob) ?? (await hashFile(file, { ...known, hash }, check))
    if (fresh && blob) hashed.set(blob, fresh)
    if (!fresh) bad.push({ path, problem: 'is gone: its link leads to no blob' })
    if (fresh?.isBad) bad.push({ path, problem: explain(fresh, (await stat(file.at)).size) })
    // Where nothing can be recorded, a load sees headers and sizes only, as it did before.
    if (fresh) await records?.renew(commit, path, { ...fresh, isPlaced: known?.isPlaced }).catch(() => {})
  }
  const withCure = bad.map(file => ({ ...file, cure: pullCommand(cache, commit, file.path) }))
  return { model, numFiles: files.length, bad: withCure, unknown }
}

const isLoaded = (path: string) => /(^|\/)(config\.json|[^/]+\.safetensors(\.index\.json)?)$/.test(path)

/** The record of a file, hashed unless its size is wrong; undefined where the file is gone. */
async function hashFile(
  { path, at }: SnapshotFile,
  known: Partial<FileRecord> & { hash: string },
  check: { signal?: AbortSignal; onChecked: (bytes: number) => void },
): Promise<FileRecord | undefined> {
  const found = await fingerprintOf(at).catch(() => undefined)
  if (!found) return undefined
  const { hash, size = found.size } = known
  return hashAgain(at, path, { hash, size }, check)
}

function explain({ hash, size }: FileRecord, found: number): string {
  if (found !== size) return `has ${found} bytes, expected ${size}`
  return `has ${size} bytes that do not have the ${hash.length === 64 ? 'sha256' : 'git sha1'} ${hash}`
}

/** `13.79 GB` */
export function showBytes(bytes: number): string {
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`
}
