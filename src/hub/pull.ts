import { lstat, mkdir, readlink, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { cacheFolder } from '../base/cache-folder.node.ts'
import { RequestError } from '../base/errors.ts'
import { readJsonObject } from '../checkpoint/index-file.ts'
import { openFolder } from '../checkpoint/source.node.ts'
import { readConfig } from '../model/config.ts'
import { download, dropPartial, explainDisk, isGood, recordedBytes } from './download.ts'
import { takeInTurn } from './download-queue.ts'
import { checkRoom, usualPartBytes } from './download-size.ts'
import { type HubEnvironment, readEnvironment } from './environment.ts'
import { lockFile } from './file-lock.ts'
import { checkRevision, RepositoryCache, repositoryOf, shardsOf } from './hub-cache.ts'
import { type ClientOptions, HubClient, type HubFile, Unreachable } from './hub-client.ts'
import { firstFiles, indexName, type Layout, weightFiles } from './plan.ts'
import { ProgressMeter, type PullProgress } from './progress.ts'
import { type FileRecord, type Fingerprint, fingerprintOf, isSame, RepositoryRecords } from './records.ts'

export interface PullOptions {
  /** Default `root`: the shards with Hugging Face's names. */
  layout?: Layout
  /** A branch, tag or commit: default `main`. */
  revision?: string
  environment?: HubEnvironment
  signal?: AbortSignal
  /** Called a few times a second. */
  onProgress?: (progress: PullProgress) => void
  /** Called before the weights come: how many bytes are missing of how many. */
  onPlan?: (missingBytes: number, totalBytes: number) => void
  /** Called once when another process downloads a file that is needed here too. */
  onWait?: (pid: number) => void
  /** tutti's own cache folder, for the record of what was hashed; undefined where this user has none. */
  recordFolder?: string | undefined
  /** Called before a request is sent again, so many milliseconds before: `reason` is the failure as a sentence. */
  onRetry?: ClientOptions['onRetry']
  /** For tests: smaller parts and disks, shorter waits. */
  partBytes?: number
  spareBytes?: number
  wait?: ClientOptions['wait']
}

export interface Pulled {
  id: string
  commit: string
  /** The folder to load. */
  path: string
  /** Bytes of all files, and how many of them were not there before. */
  bytes: number
  fetchedBytes: number
  /** Why the hub was not asked, or nothing could be recorded, where it is so. */
  notice?: string
}

const numConnections = 4

/**
 * Downloads a model into the cache that Python's huggingface_hub shares, or finds it there: every file is hashed, and
 * the model gets its name only when all of it is right. What an interrupted call left is used. Throws RequestError,
 * DeviceError (network, disk) or CheckpointError (what the server sends is wrong).
 */
export async function pull(name: string, options: PullOptions = {}): Promise<Pulled> {
  const { revision = 'main', layout = 'root', environment = readEnvironment() } = options
  const id = repositoryOf(name)
  if (id === undefined) {
    throw new RequestError(`${JSON.stringify(name)} is no model of a hub: say gpt-oss-20b, gpt-oss-120b or OWNER/NAME`)
  }
  const cache = new RepositoryCache(environment.cache, id)
  checkRevision(revision)
  if (environment.offline) {
    return cached(cache, revision, layout, 'offline mode: the hub was not asked for a newer version')
  }
  const client = new HubClient(environment, options)
  try {
    const isCached = cache.locate(revision, layout) !== undefined
    const found = await ask(client, id, revision, isCached)
    if ('commit' in found) return await new Pull(client, cache, { ...options, ...found, layout, revision }).run()
    const { message } = found.failure
    return cached(cache, revision, layout, `${message}; the version in the cache is used`, found.failure)
  } catch (error) {
    throw explainDisk(error, cache.root)
  } finally {
    client.close()
  }
}

/** What the hub has; or why it does not answer. */
async function ask(
  client: HubClient,
  id: string,
  revision: string,
  isCached: boolean,
): Promise<{ commit: string; files: HubFile[] } | { failure: Unreachable }> {
  try {
    const commit = await client.commitOf(id, revision, isCached)
    return { commit, files: await client.files(id, commit) }
  } catch (error) {
    if (error instanceof Unreachable) return { failure: error }
    throw error
  }
}

function cached(cache: RepositoryCache, revision: string, layout: Layout, notice: string, failure?: Error): Pulled {
  const path = cache.locate(revision, layout)
  if (path !== undefined) return { id: cache.id, commit: basename(path), path, bytes: 0, fetchedBytes: 0, notice }
  if (failure) throw failure
  throw new RequestError(
    `${cache.id} (${revision}) is not in the cache ${cache.root}, and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids ` +
      'to download it: unset it and run the command again',
  )
}

interface Target extends PullOptions {
  commit: string
  files: HubFile[]
  layout: Layout
  revision: string
}

/** Where a file lies when it is whole; `new`: nothing else can have a link to the blob yet. */
type Place = 'snapshot' | 'blob' | 'new'

class Pull {
  readonly #client: HubClient
  readonly #cache: RepositoryCache
  readonly #target: Target
  readonly #partBytes: number
  readonly #meter: ProgressMeter
  readonly #records: RepositoryRecords | undefined
  readonly #places = new Map<HubFile, Place>()
  /** What each file was like when it was hashed, and when that was. */
  readonly #hashed = new Map<HubFile, Fingerprint & { verified: string }>()
  /** Files that got their name from this call. */
  readonly #named = new Set<HubFile>()
  #fetched = 0

  constructor(client: HubClient, cache: RepositoryCache, target: Target) {
    const { recordFolder = cacheFolder() } = target
    this.#client = client
    this.#cache = cache
    this.#target = target
    this.#partBytes = target.partBytes ?? usualPartBytes
    this.#meter = new ProgressMeter(target.onProgress)
    this.#records = recordFolder === undefined ? undefined : new RepositoryRecords(recordFolder, cache.root)
  }

  async run(): Promise<Pulled> {
    const { commit, files, layout, revision } = this.#target
    const cache = this.#cache
    const folder = layout === 'root' ? '' : 'original/'
    const small = firstFiles(files, layout)
    const config = small.find(({ path }) => path === `${folder}config.json`)
    if (!config) throw new RequestError(`${cache.id} has no ${folder}config.json: it is no model that tutti can run`)
    const index = small.find(({ path }) => path === folder + indexName)
    // These say what to take and whether tutti can run it, before much is moved.
    await this.#takeAll(index ? [config, index] : [config])
    await this.#checkConfig(config)
    const shards = index && shardsOf(this.#pathOf(index))
    const all = [...small, ...weightFiles(files, { id: cache.id, layout, shards })]
    await this.#takeAll(
      all.filter(file => !this.#places.has(file)),
      this.#target.onPlan,
    )
    await this.#placeAll(all)
    await cache.writeRef(revision, commit)
    const notice = await this.#record(all)
    const pulled = { id: cache.id, commit, path: cache.snapshot(commit), bytes: sum(all), fetchedBytes: this.#fetched }
    return { ...pulled, ...(notice && { notice }) }
  }

  async #takeAll(all: readonly HubFile[], onPlan?: PullOptions['onPlan']): Promise<void> {
    const files = await this.#unknown(all)
    this.#meter.expect(sum(files))
    const missing = await this.#missingBytes(files)
    await checkRoom(this.#cache, missing, this.#target.spareBytes)
    onPlan?.(missing, sum(files))
    // Python's tools call a repository without this folder corrupt, and one being downloaded is not.
    await mkdir(this.#cache.snapshot(''), { recursive: true })
    await mkdir(this.#cache.blobs, { recursive: true })
    await takeInTurn(files, (...file) => this.#take(...file), this.#target.signal)
    this.#meter.tell()
  }

  /** The files without those that were hashed once, and were not touched since. */
  async #unknown(files: readonly HubFile[]): Promise<HubFile[]> {
    const commits = (await this.#records?.commits()) ?? []
    const records = await Promise.all(commits.map(commit => this.#records!.read(commit)))
    const hashed = records.flatMap(record => [...record.values()])
    const unknown: HubFile[] = []
    for (const file of files) {
      const known = hashed.filter(({ hash, size }) => hash === file.etag && size === file.size)
      if (known.length === 0 || !(await this.#isKnown(file, known))) unknown.push(file)
    }
    return unknown
  }

  async #isKnown(file: HubFile, known: readonly FileRecord[]): Promise<boolean> {
    for (const place of ['blob', 'snapshot'] as const) {
      const found = await this.#find(file, place)
      const same = found ? known.filter(record => isSame(record, found)) : []
      if (!found || same.length === 0 || same.some(({ isBad }) => isBad)) continue
      this.#places.set(file, place)
      this.#hashed.set(file, { ...found, verified: same[0].verified })
      await dropPartial(this.#cache, file)
      return true
    }
    return false
  }

  /** What lies in a place of the file; undefined where nothing does. */
  async #find(file: HubFile, place: Place): Promise<Fingerprint | undefined> {
    const path = this.#pathIn(file, place)
    if (place === 'snapshot' && !(await isPlainFile(path))) return undefined
    return fingerprintOf(path).catch(() => undefined)
  }

  async #missingBytes(files: readonly HubFile[]): Promise<number> {
    let missing = 0
    for (const file of files) {
      if (!(await this.#isThere(file))) missing += file.size - (await recordedBytes(this.#cache, file, this.#partBytes))
    }
    return missing
  }

  /** By size; its hash is seen to later. */
  async #isThere(file: HubFile): Promise<boolean> {
    const paths = [this.#cache.blob(file.etag), this.#cache.snapshot(this.#target.commit, file.path)]
    const found = await Promise.all(paths.map(path => stat(path).catch(() => undefined)))
    return found.some(found => found?.size === file.size)
  }

  /** Finds a file, or downloads it. What is found counts only when its hash is right. */
  async #take(file: HubFile, signal: AbortSignal, onFetched: () => void): Promise<void> {
    const { onWait, commit } = this.#target
    const cache = this.#cache
    const release = await lockFile(join(cache.locks, `${file.etag}.tutti.lock`), { signal, onWait })
    try {
      let checked = 0
      const onChecked = (bytes: number) => {
        checked += bytes
        this.#meter.checked(file.path, bytes)
      }
      for (const place of ['blob', 'snapshot'] as const) {
        const found = await this.#find(file, place)
        if (!found) continue
        if (await isGood(this.#pathIn(file, place), file, { signal, onChecked })) {
          this.#meter.found(file.size)
          this.#places.set(file, place)
          this.#hashed.set(file, { ...found, verified: new Date().toISOString() })
          return await dropPartial(cache, file)
        }
        onChecked(-checked)
      }
      const there = await recordedBytes(cache, file, this.#partBytes)
      await download({
        ...{ client: this.#client, cache, commit, file, signal, numConnections, partBytes: this.#partBytes },
        onBytes: (bytes, isNew) => (isNew ? this.#meter.received(file.path, bytes) : this.#meter.found(bytes)),
        ...{ onChecked, onFetched },
      })
      this.#fetched += file.size - there
      this.#places.set(file, 'new')
      const found = await fingerprintOf(cache.blob(file.etag))
      this.#hashed.set(file, { ...found, verified: new Date().toISOString() })
    } finally {
      await release()
    }
  }

  async #checkConfig(config: HubFile): Promise<void> {
    const path = this.#pathOf(config)
    const folder = await openFolder(join(path, '..'))
    try {
      readConfig(await readJsonObject(folder, basename(path)), `${this.#cache.id}/${config.path}`)
    } finally {
      await folder.close()
    }
  }

  /** Where the file lies now. */
  #pathOf(file: HubFile): string {
    return this.#pathIn(file, this.#places.get(file)!)
  }

  #pathIn(file: HubFile, place: Place): string {
    return place === 'snapshot' ? this.#cache.snapshot(this.#target.commit, file.path) : this.#cache.blob(file.etag)
  }

  /** Names all files, which makes them the model. */
  async #placeAll(files: readonly HubFile[]): Promise<void> {
    const { commit, environment = readEnvironment() } = this.#target
    const links = environment.links && (await this.#cache.canLink())
    for (const [n, file] of files.entries()) {
      const place = this.#places.get(file)
      if (place === 'snapshot' || (links && (await this.#isLinked(file)))) continue
      const neededAgain = files.slice(n + 1).some(({ etag }) => etag === file.etag)
      const as = links ? 'link' : place === 'new' && !neededAgain ? 'move' : 'copy'
      await this.#cache.place(commit, file.path, file.etag, as)
      this.#named.add(file)
      // A copy is another file.
      if (as === 'copy')
        Object.assign(this.#hashed.get(file)!, await fingerprintOf(this.#cache.snapshot(commit, file.path)))
    }
  }

  /** Records what the files are like, so that a change is seen later. Resolves to why that could not be. */
  async #record(files: readonly HubFile[]): Promise<string | undefined> {
    const { commit } = this.#target
    const add = (record: Map<string, FileRecord>) => {
      for (const file of files) {
        const isPlaced = this.#named.has(file) || record.get(file.path)?.isPlaced
        record.set(file.path, { hash: file.etag, ...this.#hashed.get(file)!, ...(isPlaced && { isPlaced }) })
      }
    }
    const problem = this.#records
      ? await this.#records.update(commit, add).then(
          () => undefined,
          (error: Error) => error.message,
        )
      : 'this user has no home'
    return (
      problem &&
      `nothing is recorded of the hashes (${problem}): a load will see damage only in headers and sizes; set ` +
        'TUTTI_CACHE_DIR to a folder that this user may write'
    )
  }

  async #isLinked({ path, etag }: HubFile): Promise<boolean> {
    const target = await readlink(this.#cache.snapshot(this.#target.commit, path)).catch(() => '')
    return basename(target) === etag && basename(join(target, '..')) === 'blobs'
  }
}

const isPlainFile = async (path: string) => (await lstat(path).catch(() => undefined))?.isFile() ?? false
const sum = (files: readonly HubFile[]) => files.reduce((total, { size }) => total + size, 0)
