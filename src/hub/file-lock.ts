import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { link, mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises'
import { hostname } from 'node:os'
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/** Who holds a lock. A process id alone is used again, so its start time stands beside it. */
interface Holder {
  pid: number
  started: string
  host: string
}

const pollMs = 300
/** A lock without content after this long was left by a crash while it was made. */
const makingMs = 10_000

/**
 * Takes a lock between tutti's processes: a file that is there while its maker lives. Waits for others, telling
 * `onWait` once; one left by a process that is gone is taken over. Resolves to what releases it.
 */
export async function lockFile(
  path: string,
  { signal, onWait }: { signal?: AbortSignal; onWait?: (pid: number) => void } = {},
): Promise<() => Promise<void>> {
  const own = JSON.stringify({ pid: process.pid, started: startOf(process.pid) ?? '', host: hostname() })
  await mkdir(dirname(path), { recursive: true })
  for (let told = false; ; ) {
    signal?.throwIfAborted()
    if (await create(path, own)) return () => rm(path, { force: true })
    const found = await readFile(path, 'utf8').catch(() => undefined)
    if (found === undefined) continue // it was released just now
    const holder = readHolder(found)
    if (holder ? !isAlive(holder) : await isOlder(path, makingMs)) {
      await takeAway(path, found)
      continue
    }
    if (!told) onWait?.(holder?.pid ?? 0)
    told = true
    await sleep(pollMs, undefined, { signal }).catch(() => signal?.throwIfAborted())
  }
}

async function isOlder(path: string, ms: number): Promise<boolean> {
  const found = await stat(path).catch(() => undefined)
  return found !== undefined && Date.now() - found.mtimeMs > ms
}

async function create(path: string, content: string): Promise<boolean> {
  try {
    const file = await open(path, 'wx')
    await file.writeFile(content)
    await file.close()
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}

/** Removes a dead lock, and puts it back where another process was faster and the file is its own by now. */
async function takeAway(path: string, dead: string): Promise<void> {
  const aside = `${path}.${randomBytes(4).toString('hex')}`
  try {
    await rename(path, aside)
    if ((await readFile(aside, 'utf8')) !== dead) await link(aside, path)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code !== 'ENOENT' && code !== 'EEXIST') throw error
  } finally {
    await rm(aside, { force: true })
  }
}

/** Undefined while its maker is still writing it. */
function readHolder(text: string): Holder | undefined {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** A process of another machine on a shared disk cannot be seen, and counts as alive. */
function isAlive({ pid, started, host }: Holder): boolean {
  if (host !== hostname()) return true
  try {
    process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
  const now = startOf(pid)
  return now === undefined || started === '' || now === started
}

/** When a process began, in the kernel's ticks; undefined where the system does not tell by a file. */
function startOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] // field 22; the name before it may hold spaces
  } catch {
    return undefined
  }
}
