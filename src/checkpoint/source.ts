import { CheckpointError } from '../base/errors.ts'

/** The files of a model, read by byte range: a folder on disk, a place on the web, or memory. */
export interface Folder {
  /** Where it is, for messages. */
  readonly path: string
  /** The files in it and in folders directly inside it, `config.json` and `original/config.json` alike, sorted. */
  list(): Promise<string[]>
  /** Bytes of a file. Throws CheckpointError where there is none. */
  size(name: string): Promise<number>
  /** Exactly the bytes from `begin` up to `end`, in memory of their own. Throws CheckpointError where the file ends before. */
  read(name: string, begin: number, end: number): Promise<Uint8Array>
  /** Where a file lies on disk, in a folder whose files can be mapped. */
  pathOf?(name: string): string
  close(): Promise<void>
}

/** A folder whose files are byte arrays. */
export function memoryFolder(files: Readonly<Record<string, Uint8Array>>, path = 'memory'): Folder {
  const contents = new Map(Object.entries(files))
  const file = (name: string): Uint8Array => contents.get(name) ?? noFile(path, name)
  return {
    path,
    list: async () => [...contents.keys()].sort(),
    size: async name => file(name).length,
    read: async (name, begin, end) => {
      const bytes = file(name)
      if (end > bytes.length) endsEarly(path, name, bytes.length, end)
      return bytes.slice(begin, end)
    },
    close: async () => {},
  }
}

/** A folder inside a folder. Closing it closes both. */
export function subfolder(folder: Folder, inner: string): Folder {
  const prefix = `${inner}/`
  const { pathOf } = folder
  return {
    ...(pathOf && { pathOf: (name: string) => pathOf.call(folder, prefix + name) }),
    path: `${folder.path.replace(/\/$/, '')}/${inner}`,
    list: async () =>
      (await folder.list()).filter(name => name.startsWith(prefix)).map(name => name.slice(prefix.length)),
    size: name => folder.size(prefix + name),
    read: (name, begin, end) => folder.read(prefix + name, begin, end),
    close: () => folder.close(),
  }
}

export function noFile(path: string, name: string): never {
  throw new CheckpointError(`${path} has no file ${name}: the download is incomplete, or this is not a model's folder`)
}

export function endsEarly(path: string, name: string, size: number, end: number): never {
  throw new CheckpointError(
    `${name} in ${path} has ${size} bytes where byte ${end} was wanted: it changed after it was opened; open the model again`,
  )
}
