import { closeSync, existsSync, fstatSync, openSync, readSync, writeSync } from 'node:fs'
import type { DiskCall, DiskObserver } from './disk.ts'

/** Bytes that were written, and not yet synced. */
interface Write {
  path: string
  position: number
  length: number
  before: Buffer
}

/**
 * Remembers what a disk may lose when the power is cut: everything that was written to a file since it was last synced,
 * in any order. Names count as synced at once.
 */
export class PowerCut implements DiskObserver {
  #unsynced: Write[] = []

  before({ name, path, args }: DiskCall): void {
    if (name === 'file.write') {
      const [, , length, position] = args as [Buffer, number, number, number]
      if (typeof position !== 'number') throw new Error('written otherwise than at a position: teach it to PowerCut')
      this.#unsynced.push({ path, position, length, before: readRange(path, position, length) })
    } else if (name === 'file.truncate') {
      const before = readRange(path, args[0] as number, Infinity)
      this.#unsynced.push({ path, position: args[0] as number, length: before.length, before })
    }
  }

  after({ name, path, args }: DiskCall): void {
    if (name === 'file.sync' || name === 'file.datasync') this.#unsynced = this.#unsynced.filter(it => it.path !== path)
    if (name === 'rename') for (const write of this.#unsynced) if (write.path === args[0]) write.path = path
  }

  /** Undoes some of the writes, drawn at random. A file keeps its length: what it lost reads as zeros. */
  cut(random: () => number): void {
    for (const { path, position, length, before } of this.#unsynced.reverse()) {
      if (random() < 0.5 || !existsSync(path)) continue
      const bytes = Buffer.alloc(length)
      before.copy(bytes)
      const file = openSync(path, 'r+')
      writeSync(file, bytes, 0, length, position)
      closeSync(file)
    }
  }
}

function readRange(path: string, position: number, length: number): Buffer {
  const file = openSync(path, 'r')
  const bytes = Buffer.alloc(Math.max(0, Math.min(length, fstatSync(file).size - position)))
  readSync(file, bytes, 0, bytes.length, position)
  closeSync(file)
  return bytes
}
