import { spawn } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Patch } from './board/row.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
/** Code is copied, since Node would follow a link to it back to the sound source; data is linked. */
const copied = ['package.json', 'src', 'scripts', 'test', 'native']
const linked = ['node_modules', 'models', 'test/golden', 'native/build']
const notNeeded = /\/(test\/golden|native\/build|[^/]+\.(test|long|bench)\.ts)$/

/**
 * Makes a temporary copy of the project with bugs planted in it, calls `use` with its folder, and removes it.
 * Throws if the text that a patch searches for does not occur exactly once: then the patch has to follow the code.
 */
export async function plant<T>(patches: Patch[], use: (folder: string) => T | Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'tutti-planted-'))
  try {
    for (const path of copied) {
      cpSync(join(root, path), join(folder, path), { recursive: true, filter: source => !notNeeded.test(source) })
    }
    for (const path of linked) symlinkSync(join(root, path), join(folder, path)) // dangling where nothing is built
    for (const patch of patches) apply(patch, folder)
    return await use(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function apply({ file, search, replace }: Patch, folder: string): void {
  const text = readFileSync(join(folder, file), 'utf8')
  const pieces = text.split(search)
  if (pieces.length !== 2) {
    throw new Error(
      `the planted bug no longer fits ${file}: its text occurs ${pieces.length - 1} times instead of once. ` +
        `Change the patch with the code: ${JSON.stringify(search)}`,
    )
  }
  writeFileSync(join(folder, file), pieces.join(replace))
}

export interface Ended {
  /** The exit code; null when a signal ended it, as after `timeoutMs`. */
  code: number | null
  stdout: string
  stderr: string
}

/** Runs Node with these arguments (a file and what it takes) on the TypeScript source in `folder`. */
export function runNode(folder: string, args: string[], options: { timeoutMs?: number } = {}): Promise<Ended> {
  const child = spawn(process.execPath, ['--conditions=tutti-source', ...args], {
    cwd: folder,
    env: { ...process.env, NODE_TEST_CONTEXT: undefined },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: options.timeoutMs ?? 600_000,
    killSignal: 'SIGKILL',
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', text => (stdout += text))
  child.stderr.setEncoding('utf8').on('data', text => (stderr += text))
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', code => resolve({ code, stdout, stderr }))
  })
}
