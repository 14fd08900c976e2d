import { createHash } from 'node:crypto'
import { type FileHandle, readdir, stat, unlink } from 'node:fs/promises'
import { join } from 'node:path'

/**
 * What tutti's files in its cache have in common: they are bound to what they were made from, appear whole by a rename,
 * and are removed when nobody has used them for a month.
 */
export const unusedForMs = 30 * 24 * 3600e3

/** Who writes a file writes some of it every few seconds. */
const idleForMs = 10 * 60e3

const partial = /^\.(\d+)-[0-9a-f]+\.partial$/

/** 24 hexadecimal digits that stand for these bytes. */
export function digest(...pieces: (string | Uint8Array)[]): string {
  const sum = createHash('sha256')
  for (const piece of pieces) sum.update(piece)
  return sum.digest('hex').slice(0, 24)
}

/** Where this process writes a file until it is whole. */
export function partialPath(folder: string): string {
  return join(folder, `.${process.pid}-${digest(String(Math.random()))}.partial`)
}

/** What processes left that ended in the middle, and threads of processes that live on: nothing is written there any more. */
export async function removePartials(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    const pid = Number(partial.exec(name)?.[1] ?? 0)
    if (pid === 0) continue
    const path = join(folder, name)
    if (!isAlive(pid) || (await isIdle(path))) await unlink(path).catch(() => {})
  }
}

async function isIdle(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined)
  return found !== undefined && Date.now() - found.mtimeMs > idleForMs
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

export async function writeWhole(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const { bytesWritten } = await handle.write(bytes, at, bytes.length - at, position + at)
    at += bytesWritten
  }
}
