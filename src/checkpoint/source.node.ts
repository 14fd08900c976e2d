import { type FileHandle, open, readdir, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { CheckpointError } from '../base/errors.ts'
import { readIndex } from './index-file.ts'
import { endsEarly, type Folder, noFile } from './source.ts'

/** One read call moves at most this much: the kernel itself stops at 2 GiB. */
const maxReadBytes = 2 ** 30

/**
 * A model on disk: its folder, or a file of it. A *.safetensors that is the whole model hides the others beside it; a
 * shard, the index or config.json stand for their folder. Files stay open until `close`. Throws CheckpointError where
 * there is nothing of the kind.
 */
export async function openFolder(path: string): Promise<Folder> {
  const found = await stat(path).catch(error => explain(error, path))
  if (found.isDirectory()) return new DiskFolder(path)
  const folder = new DiskFolder(dirname(path))
  const file = basename(path)
  if (file === 'config.json' || file.endsWith('.safetensors.index.json')) return folder
  if (!file.endsWith('.safetensors')) refuseFile(path)
  const names = await folder.list()
  if (/-\d{5}-of-\d{5}\.safetensors$/.test(file)) return folder
  const index = await readIndex(folder, names).finally(() => folder.close()) // which opens its files again
  return index && [...index.values()].includes(file) ? folder : oneFile(folder, file)
}

/** The folder as if this were the only *.safetensors in it. */
function oneFile(folder: Folder, file: string): Folder {
  const isOther = (name: string) => name !== file && /\.safetensors(\.index\.json)?$/.test(name)
  const { path } = folder
  return {
    path,
    list: async () => (await folder.list()).filter(name => !isOther(name)),
    size: name => folder.size(name),
    read: (name, begin, end) => folder.read(name, begin, end),
    pathOf: name => join(path, name),
    close: () => folder.close(),
  }
}

function refuseFile(path: string): never {
  const what = path.endsWith('.gguf') ? 'is GGUF, and tutti reads safetensors' : 'is no *.safetensors file'
  throw new CheckpointError(
    `${path} ${what}: give a folder that holds config.json and the *.safetensors files, or such a file`,
  )
}

class DiskFolder implements Folder {
  readonly path: string
  readonly #handles = new Map<string, Promise<FileHandle>>()

  constructor(path: string) {
    this.path = path
  }

  async list(): Promise<string[]> {
    const outer = await this.#entries('')
    const inner = await Promise.all(outer.folders.map(name => this.#entries(`${name}/`)))
    return [...outer.files, ...inner.flatMap(entries => entries.files)].sort()
  }

  async size(name: string): Promise<number> {
    const handle = await this.#handle(name)
    return (await handle.stat()).size
  }

  async read(name: string, begin: number, end: number): Promise<Uint8Array> {
    const handle = await this.#handle(name)
    const size = (await handle.stat()).size
    if (end > size) endsEarly(this.path, name, size, end) // before memory is taken for it
    const bytes = new Uint8Array(end - begin)
    for (let at = 0; at < bytes.length; ) {
      const { bytesRead } = await handle
        .read(bytes, at, Math.min(bytes.length - at, maxReadBytes), begin + at)
        .catch(error => explain(error, join(this.path, name)))
      if (bytesRead === 0) endsEarly(this.path, name, begin + at, end)
      at += bytesRead
    }
    return bytes
  }

  pathOf(name: string): string {
    return join(this.path, name)
  }

  async close(): Promise<void> {
    const handles = await Promise.allSettled(this.#handles.values())
    this.#handles.clear()
    await Promise.all(handles.map(handle => handle.status === 'fulfilled' && handle.value.close()))
  }

  /** Files and folders, without hidden ones; links count as what they point at. */
  async #entries(prefix: string): Promise<{ files: string[]; folders: string[] }> {
    const folder = join(this.path, prefix)
    const names = await readdir(folder).catch(error => explain(error, folder))
    const files: string[] = []
    const folders: string[] = []
    for (const name of names.filter(name => !name.startsWith('.'))) {
      const found = await stat(join(folder, name)).catch(() => undefined) // a dangling link is no file
      if (found?.isFile()) files.push(prefix + name)
      else if (found?.isDirectory()) folders.push(name)
    }
    return { files, folders }
  }

  #handle(name: string): Promise<FileHandle> {
    const known = this.#handles.get(name)
    if (known) return known
    const path = join(this.path, name)
    const handle = open(path, 'r').catch(error => {
      this.#handles.delete(name)
      return error.code === 'ENOENT' ? noFile(this.path, name) : explain(error, path)
    })
    this.#handles.set(name, handle)
    return handle
  }
}

function explain(error: NodeJS.ErrnoException, path: string): never {
  const cures: Record<string, string> = {
    ENOENT: `${path} does not exist; check the path, or download the model first`,
    ENOTDIR: `${path} does not exist: a part of the path is a file, not a folder`,
    EACCES: `${path} may not be read by this user; change its permissions`,
    EPERM: `${path} may not be read by this user; change its permissions`,
    EMFILE: `${path} cannot be opened: this process has too many files open; raise the limit (ulimit -n)`,
    EIO: `${path} cannot be read: the disk reports an error; check it, and download the file again`,
  }
  const cure = cures[error.code ?? ''] ?? `${path} cannot be read: ${error.message}`
  throw new CheckpointError(cure, { cause: error })
}
