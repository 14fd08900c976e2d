import {
  closeSync,
  fstatSync,
  futimesSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  utimesSync,
  writeSync,
} from 'node:fs'
import { readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { HubServer } from '../../test/hub/server.ts'
import { type HubEnvironment, readEnvironment } from './environment.ts'
import { RepositoryCache } from './hub-cache.ts'
import { type PullOptions, pull } from './pull.ts'
import { RepositoryRecords } from './records.ts'

const golden = (path: string) =>
  readFile(fileURLToPath(new URL(`../../test/golden/logits/plain/${path}`, import.meta.url)))

/** A hub on loopback with a small model in both layouts, and the caches of one who pulls it. */
export class TestHub implements AsyncDisposable {
  readonly server: HubServer
  readonly files: Record<string, Buffer>
  readonly home: string
  readonly variables: Record<string, string>
  readonly environment: HubEnvironment
  /** tutti's own cache folder. */
  readonly recordFolder: string
  readonly cache: RepositoryCache
  readonly records: RepositoryRecords

  static async start(variables: Record<string, string> = {}): Promise<TestHub> {
    const files = {
      LICENSE: Buffer.from('Apache'),
      'config.json': await golden('hf/config.json'),
      'model.safetensors': await golden('hf/model.safetensors'),
      'original/config.json': await golden('original/config.json'),
      'original/model.safetensors': await golden('original/model.safetensors'),
      'tokenizer.json': Buffer.alloc(1000, '{}'),
    }
    return new TestHub(await HubServer.start({ files }), files, variables)
  }

  private constructor(server: HubServer, files: Record<string, Buffer>, variables: Record<string, string>) {
    this.server = server
    this.files = files
    this.home = mkdtempSync(join(tmpdir(), 'tutti-models-'))
    this.recordFolder = join(this.home, 'tutti')
    this.variables = { HF_HOME: this.home, HF_ENDPOINT: server.url, TUTTI_CACHE_DIR: this.recordFolder, ...variables }
    this.environment = readEnvironment(this.variables)
    this.cache = new RepositoryCache(this.environment.cache, server.id)
    this.records = new RepositoryRecords(this.recordFolder, this.cache.root)
  }

  get snapshot(): string {
    return this.cache.snapshot(this.server.commit)
  }

  pull(options: PullOptions = {}) {
    return pull(this.server.id, { environment: this.environment, recordFolder: this.recordFolder, ...options })
  }

  record() {
    return this.records.read(this.server.commit)
  }

  /** A path in the snapshot. */
  at(path: string): string {
    return join(this.snapshot, path)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close()
    rmSync(this.home, { recursive: true })
  }
}

/** Changes one bit of a file. `keepTime`: as a failing disk does; the time must be one of whole milliseconds. */
export function flip(path: string, { byte = 1000, keepTime = false } = {}): void {
  const handle = openSync(path, 'r+')
  try {
    const { atime, mtime, size } = fstatSync(handle)
    const at = Math.min(byte, size - 1)
    const bytes = Buffer.alloc(1)
    readSync(handle, bytes, 0, 1, at)
    bytes[0] ^= 4
    writeSync(handle, bytes, 0, 1, at)
    if (keepTime) futimesSync(handle, atime, mtime)
  } finally {
    closeSync(handle)
  }
}

/** Gives a file another time. */
export const touch = (path: string): void => utimesSync(path, 1e9, 1e9)
