import { randomBytes } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs'
import { copyFile, mkdir, readlink, rename, rm, statfs, symlink, writeFile } from 'node:fs/promises'
import { basename, dirname, join, posix, resolve, sep, toNamespacedPath } from 'node:path'
import { CheckpointError, RequestError } from '../base/errors.ts'
import { type JsonObject, parseJson } from '../base/json.ts'
import { parseIndex } from '../checkpoint/index-file.ts'
import { readEnvironment } from './environment.ts'
import { indexName, type Layout } from './plan.ts'

/** OpenAI's models need no owner. */
const shortNames: Record<string, string> = {
  'gpt-oss-20b': 'openai/gpt-oss-20b',
  'gpt-oss-120b': 'openai/gpt-oss-120b',
}

/** The repository that a name stands for: `owner/name`, or a short one. Undefined where it can be none. */
export function repositoryOf(name: string): string | undefined {
  const id = Object.hasOwn(shortNames, name) ? shortNames[name] : name
  const part = '[A-Za-z0-9](?:[\\w.-]*[A-Za-z0-9_])?'
  const isName = new RegExp(`^${part}/${part}$`).test(id) && id.length <= 96 && !/--|\.\./.test(id)
  return isName ? id : undefined
}

/** What a person types for a repository. */
export function nameOf(id: string): string {
  return Object.keys(shortNames).find(name => shortNames[name] === id) ?? id
}

/** What a person says of a model, `gpt-oss-20b` or with a revision `gpt-oss-20b@main`, in its two parts. */
export function splitName(text: string): { name: string; revision?: string } {
  const at = text.indexOf('@')
  return at < 0 ? { name: text } : { name: text.slice(0, at), revision: text.slice(at + 1) }
}

/**
 * The folder of a model that was pulled, or that Python's libraries downloaded: `NAME` or `NAME@REVISION`. Undefined where
 * there is no whole one; without a layout either one will do. Throws RequestError for a revision that can be none.
 */
export function findPulled(text: string, environment = readEnvironment(), layout?: Layout): string | undefined {
  const { name, revision = 'main' } = splitName(text)
  const id = repositoryOf(name)
  const snapshot = id && new RepositoryCache(environment.cache, id).locate(checkRevision(revision), layout)
  return snapshot && layout === 'original' ? join(snapshot, 'original') : snapshot
}

/** Throws RequestError for revisions that could leave their folder. */
export function checkRevision(revision: string): string {
  const parts = revision.split('/')
  if (parts.every(part => /^[\w+.@-]+$/.test(part) && !/^\.+$/.test(part)) && revision.length <= 200) return revision
  throw new RequestError(`${JSON.stringify(revision)} is no revision: give a branch, a tag or a commit`)
}

const isCommit = (revision: string) => /^[0-9a-f]{40}$/.test(revision)

/** The folders of one repository in the cache that Python's huggingface_hub uses too. */
export class RepositoryCache {
  readonly id: string
  readonly root: string
  readonly locks: string

  constructor(cache: string, id: string) {
    const name = `models--${id.replaceAll('/', '--')}`
    this.id = id
    this.root = join(cache, name)
    this.locks = join(cache, '.locks', name)
  }

  /** The repository with this folder; undefined where its name is that of none. */
  static at(root: string): RepositoryCache | undefined {
    const name = /^models--(.+)$/.exec(basename(root))?.[1]
    return name === undefined ? undefined : new RepositoryCache(dirname(root), name.replaceAll('--', '/'))
  }

  get blobs(): string {
    return join(this.root, 'blobs')
  }

  blob(etag: string): string {
    return reachable(join(this.blobs, etag))
  }

  snapshot(commit: string, path = ''): string {
    return reachable(join(this.root, 'snapshots', commit, ...path.split('/')))
  }

  /** The commit that a revision stood for when it was last downloaded. */
  commitOf(revision: string): string | undefined {
    if (isCommit(revision)) return revision
    const path = join(this.root, 'refs', ...checkRevision(revision).split('/'))
    if (!existsSync(path)) return undefined
    const commit = readFileSync(path, 'utf8').trim()
    return isCommit(commit) ? commit : undefined
  }

  /** The commits that have a folder. */
  commits(): string[] {
    const folder = join(this.root, 'snapshots')
    return existsSync(folder) ? readdirSync(folder).filter(isCommit).sort() : []
  }

  /** The branches and tags that stand for a commit. */
  revisionsOf(commit: string): string[] {
    const folder = join(this.root, 'refs')
    const names = existsSync(folder) ? readdirSync(folder, { recursive: true, encoding: 'utf8' }) : []
    const revisions = names.map(name => name.replaceAll(sep, '/')).filter(name => statSync(join(folder, name)).isFile())
    return revisions.filter(name => readFileSync(join(folder, name), 'utf8').trim() === commit).sort()
  }

  /** The folder with a whole model of this layout, of any where none is given; undefined where files are missing. */
  locate(revision: string, layout?: Layout): string | undefined {
    const commit = this.commitOf(revision)
    if (commit === undefined) return undefined
    const snapshot = this.snapshot(commit)
    const layouts = layoutsOf(snapshot)
    return (layout ? layouts.includes(layout) : layouts.length > 0) ? snapshot : undefined
  }

  /** Whether links can be made here. */
  async canLink(): Promise<boolean> {
    const probe = this.#temporary()
    try {
      await symlink('probe', probe)
      return (await readlink(probe)) === 'probe'
    } catch {
      return false
    } finally {
      await rm(probe, { force: true })
    }
  }

  /** Gives a blob its name in the snapshot: as a link, or where there are none by moving it or copying it. */
  async place(commit: string, path: string, etag: string, as: 'link' | 'move' | 'copy'): Promise<void> {
    const target = this.snapshot(commit, path)
    await mkdir(dirname(target), { recursive: true })
    if (as === 'move') return rename(this.blob(etag), target)
    const temporary = this.#temporary()
    if (as === 'copy') {
      await copyFile(this.blob(etag), temporary)
    } else {
      const up = '../'.repeat(path.split('/').length + 1)
      await symlink(posix.join(up, 'blobs', etag).replaceAll('/', sep), temporary, 'file')
    }
    await rename(temporary, target)
  }

  /** Records what a revision stands for now; a commit needs no record. */
  async writeRef(revision: string, commit: string): Promise<void> {
    if (isCommit(revision)) return
    const path = join(this.root, 'refs', ...checkRevision(revision).split('/'))
    await mkdir(dirname(path), { recursive: true })
    const temporary = this.#temporary()
    await writeFile(temporary, commit) // a newline would be taken for a part of the commit
    await rename(temporary, path)
  }

  /** The ending lets `hf cache prune` find what a crash left. */
  #temporary(): string {
    return join(this.blobs, `${randomBytes(8).toString('hex')}.tutti.incomplete`)
  }
}

/** The command that fetches what is missing or damaged of a snapshot; `path`: a file of it. */
export function pullCommand(cache: RepositoryCache, commit: string, path: string): string {
  const here = readEnvironment().cache
  const isElsewhere = !existsSync(here) || realpathSync(here) !== realpathSync(dirname(cache.root))
  const layouts = layoutsOf(cache.snapshot(commit))
  const isOriginal = path.startsWith('original/') || (layouts.length === 1 && layouts[0] === 'original')
  const words = [
    ...(isElsewhere ? [`HF_HUB_CACHE=${dirname(cache.root)}`] : []),
    `tutti pull ${nameOf(cache.id)}`,
    ...(isOriginal ? ['--layout=original'] : []),
    ...(cache.commitOf('main') === commit ? [] : [`--revision=${commit}`]),
  ]
  return words.join(' ')
}

/** Windows reads paths beyond 255 characters only in another spelling; elsewhere this changes nothing. */
const reachable = (path: string) => (path.length > 255 ? toNamespacedPath(path) : path)

/** Bytes that this user may still write where `path` is, or will be. */
export async function freeBytes(path: string): Promise<number> {
  let folder = resolve(path)
  while (!existsSync(folder) && dirname(folder) !== folder) folder = dirname(folder)
  const { bavail, bsize } = await statfs(folder)
  return bavail * bsize
}

/** The layouts of which a snapshot has a whole model. */
export const layoutsOf = (snapshot: string): Layout[] =>
  (['root', 'original'] as const).filter(layout => isWhole(snapshot, layout))

/** Whether a snapshot has every file of a layout that loading needs. Sizes and tensors are checked by loading. */
function isWhole(snapshot: string, layout: Layout): boolean {
  const has = (name: string) => statSync(join(snapshot, name), { throwIfNoEntry: false })?.isFile() ?? false
  const folder = layout === 'root' ? '' : 'original/'
  if (!has(`${folder}config.json`) && !has('config.json')) return false
  const index = folder + indexName
  if (!has(index)) return has(`${folder}model.safetensors`)
  try {
    return shardsOf(join(snapshot, index)).every(shard => has(folder + shard))
  } catch (error) {
    if (error instanceof CheckpointError) return false // a damaged index: pulling again fetches it
    throw error
  }
}

/** The files that an index names. Throws CheckpointError. */
export function shardsOf(path: string): string[] {
  return [...new Set(parseIndex(readObject(path), path).values())].sort()
}

function readObject(path: string): JsonObject {
  try {
    const value = parseJson(readFileSync(path, 'utf8'))
    return value instanceof Map ? value : new Map()
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    throw new CheckpointError(`${path} is not valid JSON: ${error.message}; download it again`)
  }
}
