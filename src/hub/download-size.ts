import { stat } from 'node:fs/promises'
import { DeviceError } from '../base/errors.ts'
import { recordedBytes } from './download.ts'
import type { HubEnvironment } from './environment.ts'
import { freeBytes, RepositoryCache } from './hub-cache.ts'
import { type ClientOptions, HubClient, type HubFile } from './hub-client.ts'
import { firstFiles, type Layout } from './plan.ts'

export const usualPartBytes = 64 * 2 ** 20
/** Room that a download leaves on the disk. */
export const usualSpareBytes = 2 ** 30

/** What a download would move, where to, and what room there is. */
export interface DownloadSize {
  readonly host: string
  readonly cache: string
  readonly totalBytes: number
  readonly missingBytes: number
  readonly freeBytes: number
}

export interface SizeOptions extends ClientOptions {
  environment: HubEnvironment
  revision: string
  layout: Layout
}

/**
 * Asks the hub what a model weighs, without downloading any of it. Throws as pulling would where the hub does not have
 * it or does not answer (it is asked once), and where the disk has too little room.
 */
export async function sizeOfDownload(id: string, options: SizeOptions): Promise<DownloadSize> {
  const { environment, revision, layout } = options
  const client = new HubClient(environment, options)
  try {
    const files = await client.files(id, await client.commitOf(id, revision, true))
    const weights = layout === 'root' ? /^[^/]+\.safetensors$/ : /^original\/[^/]+\.safetensors$/
    const wanted = [...firstFiles(files, layout), ...files.filter(({ path }) => weights.test(path))]
    const cache = new RepositoryCache(environment.cache, id)
    const missingBytes = await bytesMissing(cache, wanted)
    await checkRoom(cache, missingBytes)
    return {
      host: new URL(environment.endpoint).host,
      cache: environment.cache,
      totalBytes: wanted.reduce((sum, { size }) => sum + size, 0),
      missingBytes,
      freeBytes: await freeBytes(cache.root),
    }
  } finally {
    client.close()
  }
}

/** Bytes that are neither in whole blobs nor in recorded parts. */
async function bytesMissing(cache: RepositoryCache, files: readonly HubFile[]): Promise<number> {
  let missing = 0
  for (const file of files) {
    const found = await stat(cache.blob(file.etag)).catch(() => undefined)
    if (found?.size !== file.size) missing += file.size - (await recordedBytes(cache, file, usualPartBytes))
  }
  return missing
}

/** Throws DeviceError where the disk of the cache has not this much room, and some to spare. */
export async function checkRoom(cache: RepositoryCache, bytes: number, spareBytes = usualSpareBytes): Promise<void> {
  if (bytes === 0) return
  const free = await freeBytes(cache.root)
  if (free >= bytes + spareBytes) return
  throw new DeviceError(
    `${cache.id} needs ${gigabytes(bytes)} more and ${gigabytes(spareBytes)} to spare, and the disk that holds ` +
      `${cache.root} has ${gigabytes(free)} free: make room, or set HF_HOME to a folder on another disk`,
  )
}

const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`
