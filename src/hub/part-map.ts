import { existsSync, readFileSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import type { Range } from './hub-client.ts'

/**
 * Which parts of an unfinished download are on the disk, with their hashes: a text file, one line a part, appended after
 * the part itself was synced. A line that a crash cut short does not count.
 */
export class PartMap {
  readonly #handle: FileHandle
  readonly #header: string
  readonly #fileBytes: number
  readonly #partBytes: number
  readonly #hashes: Map<number, string>
  /** Where the next line goes. */
  #end = 0

  /** Opens or makes the map; one of parts cut otherwise is begun anew. */
  static async open(path: string, fileBytes: number, partBytes: number): Promise<PartMap> {
    const hashes = readHashes(path, fileBytes, partBytes)
    const map = new PartMap(await open(path, existsSync(path) ? 'r+' : 'wx+'), fileBytes, partBytes, hashes)
    await map.#rewrite()
    return map
  }

  /** Bytes of the parts that the map at `path` has. */
  static recordedBytes(path: string, fileBytes: number, partBytes: number): number {
    return sizeOf(readHashes(path, fileBytes, partBytes).keys(), fileBytes, partBytes)
  }

  private constructor(handle: FileHandle, fileBytes: number, partBytes: number, hashes: Map<number, string>) {
    this.#handle = handle
    this.#header = headerOf(fileBytes, partBytes)
    this.#fileBytes = fileBytes
    this.#partBytes = partBytes
    this.#hashes = hashes
  }

  get recordedBytes(): number {
    return sizeOf(this.#hashes.keys(), this.#fileBytes, this.#partBytes)
  }

  all(): number[] {
    return Array.from({ length: Math.ceil(this.#fileBytes / this.#partBytes) }, (_, part) => part)
  }

  missing(): number[] {
    return this.all().filter(part => !this.#hashes.has(part))
  }

  range(part: number): Range {
    return { begin: part * this.#partBytes, end: Math.min((part + 1) * this.#partBytes, this.#fileBytes) }
  }

  /** The part that holds this byte; beyond the file's end the one that would. */
  partAt(byte: number): number {
    return Math.floor(byte / this.#partBytes)
  }

  hashOf(part: number): string | undefined {
    return this.#hashes.get(part)
  }

  async record(part: number, sha256: string): Promise<void> {
    this.#hashes.set(part, sha256)
    const line = Buffer.from(`${part} ${sha256}\n`)
    const at = this.#end
    this.#end += line.length // before others come, while this one is written
    await this.#handle.write(line, 0, line.length, at)
  }

  async forget(parts: readonly number[]): Promise<void> {
    for (const part of parts) this.#hashes.delete(part)
    await this.#rewrite()
  }

  close(): Promise<void> {
    return this.#handle.close()
  }

  /** Parts that are lost by a crash in here are fetched again. */
  async #rewrite(): Promise<void> {
    const lines = [...this.#hashes].map(([part, hash]) => `${part} ${hash}\n`)
    const text = Buffer.from(`${this.#header}\n${lines.join('')}`)
    this.#end = text.length
    await this.#handle.truncate(0)
    await this.#handle.write(text, 0, text.length, 0)
    await this.#handle.datasync()
  }
}

const headerOf = (fileBytes: number, partBytes: number) => `tutti parts 1 ${fileBytes} ${partBytes}`

function sizeOf(parts: Iterable<number>, fileBytes: number, partBytes: number): number {
  let size = 0
  for (const part of parts) size += Math.min(partBytes, fileBytes - part * partBytes)
  return size
}

function readHashes(path: string, fileBytes: number, partBytes: number): Map<number, string> {
  const text = existsSync(path) ? readFileSync(path, 'latin1') : ''
  const [header, ...lines] = text.slice(0, text.lastIndexOf('\n') + 1).split('\n')
  const hashes = new Map<number, string>()
  if (header !== headerOf(fileBytes, partBytes)) return hashes
  for (const line of lines) {
    const [, part, hash] = /^(\d+) ([0-9a-f]{64})$/.exec(line) ?? []
    if (hash && Number(part) * partBytes < fileBytes) hashes.set(Number(part), hash)
  }
  return hashes
}
