import { lstat, mkdir, readlink, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { DeviceError, RequestError } from '../base/errors.ts'
import { readJsonObject } from '../checkpoint/index-file.ts'
import { openFolder } from '../checkpoint/source.node.ts'
import { readConfig } from '../model/config.ts'
import { download, dropPartial, explainDisk, isGood, recordedBytes } from './download.ts'
import { type HubEnvironment, readEnvironment } from './environment.ts'
import { lockFile } from './file-lock.ts'
import { checkRevision, freeBytes, RepositoryCache, repositoryOf, shardsOf } from './hub-cache.ts'
import { type ClientOptions, HubClient, type HubFile, Unreachable } from './hub-client.ts'
import { firstFiles, indexName, type Layout, weightFiles } from './plan.ts'
import { ProgressMeter, type PullProgress } from './progress.ts'

export interface PullOptions {
  /** Default `root`: the shards with Hugging Face's names. */
  layout?: Layout
  /** A branch, tag or commit: default `main`. */
  revision?: string
  environment?: HubEnvironment
  signal?: AbortSignal
  /** Called a few times a second. */
  onProgress?: (progress: PullProgress) => void
  /** Called once when another process downloads a file that is needed here too. */
  onWait?: (pid: number) => void
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
  /** Why the hub was not asked, where it was not. */
  notice?: string
}

const usualPartBytes = 64 * 2 ** 20
const numConnections = 4
/** Room that a download leaves on the disk. */
const usualSpareBytes = 2 ** 30

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
    const found = await ask(client, id, revision)
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
): Promise<{ commit: string; files: HubFile[] } | { failure: Unreachable }> {
  try {
    const commit = await client.commitOf(id, revision)
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
  readonly #places = new Map<HubFile, Place>()
  #fetched = 0

  constructor(client: HubClient, cache: RepositoryCache, target: Target) {
    this.#client = client
    this.#cache = cache
    this.#target = target
    this.#partBytes = target.partBytes ?? usualPartBytes
    this.#meter = new ProgressMeter(target.onProgress)
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
    await this.#takeAll(all.filter(file => !this.#places.has(file)))
    await this.#placeAll(all)
    await cache.writeRef(revision, commit)
    const bytes = sum(all)
    return { id: cache.id, commit, path: cache.snapshot(commit), bytes, fetchedBytes: this.#fetched }
  }

  async #takeAll(files: readonly HubFile[]): Promise<void> {
    this.#meter.expect(sum(files))
    await this.#checkDisk(files)
    // Python's tools call a repository without this folder corrupt, and one being downloaded is not.
    await mkdir(this.#cache.snapshot(''), { recursive: true })
    await mkdir(this.#cache.blobs, { recursive: true })
    for (const file of files) await this.#take(file)
    this.#meter.tell()
  }

  async #checkDisk(files: readonly HubFile[]): Promise<void> {
    let missing = 0
    for (const file of files) {
      if (!(await this.#isThere(file))) missing += file.size - (await recordedBytes(this.#cache, file, this.#partBytes))
    }
    if (missing === 0) return
    const free = await freeBytes(this.#cache.root)
    const { spareBytes = usualSpareBytes } = this.#target
    if (free >= missing + spareBytes) return
    throw new DeviceError(
      `${this.#cache.id} needs ${gigabytes(missing)} more and ${gigabytes(spareBytes)} to spare, and the disk that holds ` +
        `${this.#cache.root} has ${gigabytes(free)} free: make room, or set HF_HOME to a folder on another disk`,
    )
  }

  /** By size; its hash is seen to later. */
  async #isThere(file: HubFile): Promise<boolean> {
    const paths = [this.#cache.blob(file.etag), this.#cache.snapshot(this.#target.commit, file.path)]
    const found = await Promise.all(paths.map(path => stat(path).catch(() => undefined)))
    return found.some(found => found?.size === file.size)
  }

  /** Finds a file, or downloads it. What is found counts only when its hash is right. */
  async #take(file: HubFile): Promise<void> {
    const { signal, onWait, commit } = this.#target
    const cache = this.#cache
    const release = await lockFile(join(cache.locks, `${file.etag}.tutti.lock`), { signal, onWait })
    try {
      const check = { signal, onChecked: (bytes: number) => this.#meter.checked(file.path, bytes) }
      const before = this.#meter.checkedBytes
      for (const place of ['blob', 'snapshot'] as const) {
        const path = place === 'blob' ? cache.blob(file.etag) : cache.snapshot(commit, file.path)
        if (place === 'snapshot' && !(await isPlainFile(path))) continue
        if (await isGood(path, file, check)) {
          this.#meter.found(file.size)
          this.#places.set(file, place)
          return await dropPartial(cache, file)
        }
        this.#meter.checked(file.path, before - this.#meter.checkedBytes)
      }
      const there = await recordedBytes(cache, file, this.#partBytes)
      await download({
        ...{ client: this.#client, cache, commit, file, signal, numConnections, partBytes: this.#partBytes },
        onBytes: bytes => this.#meter.received(file.path, bytes),
        onChecked: check.onChecked,
      })
      this.#fetched += file.size - there
      this.#places.set(file, 'new')
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

  /** Where the file lies or will lie. */
  #pathOf(file: HubFile): string {
    const { commit } = this.#target
    return this.#places.get(file) === 'snapshot' ? this.#cache.snapshot(commit, file.path) : this.#cache.blob(file.etag)
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
    }
  }

  async #isLinked({ path, etag }: HubFile): Promise<boolean> {
    const target = await readlink(this.#cache.snapshot(this.#target.commit, path)).catch(() => '')
    return basename(target) === etag && basename(join(target, '..')) === 'blobs'
  }
}

const isPlainFile = async (path: string) => (await lstat(path).catch(() => undefined))?.isFile() ?? false
const sum = (files: readonly HubFile[]) => files.reduce((total, { size }) => total + size, 0)
const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`
