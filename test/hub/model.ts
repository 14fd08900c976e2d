/** A model's repository for tests of downloads, and what must hold of a cache that it is downloaded into. */
import { existsSync, lstatSync, readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { seededRandom } from '../../src/base/random.ts'
import { gitSha1, type HubServer, sha256 } from './server.ts'

export type ModelFiles = Record<string, Buffer>

/** Files as a hub has them, with shards of these lengths, drawn from the seed. All of them are what a pull takes. */
export function modelFiles(shardBytes: readonly number[], seed: number): ModelFiles {
  const random = seededRandom(seed)
  const shard = (n: number) => `model-${n + 1}-of-${shardBytes.length}.safetensors`
  const weightMap = Object.fromEntries(shardBytes.map((_, n) => [`model.layers.${n}`, shard(n)]))
  const config = fileURLToPath(new URL('../../models/nano/config.json', import.meta.url))
  return {
    'config.json': readFileSync(config),
    'generation_config.json': Buffer.from('{}'),
    'tokenizer.json': randomBuffer(1000, random),
    'model.safetensors.index.json': Buffer.from(JSON.stringify({ weight_map: weightMap })),
    ...Object.fromEntries(shardBytes.map((length, n) => [shard(n), randomBuffer(length, random)])),
  }
}

export const isShard = (path: string): boolean => path.endsWith('.safetensors')

function randomBuffer(length: number, random: () => number): Buffer {
  return Buffer.from(Array.from({ length }, () => Math.floor(256 * random())))
}

const isFinal = (path: string) => !/\.(incomplete|lock)(\.[0-9a-f]+)?$/.test(path)
const hashOf = (bytes: Buffer, name: string) => (name.length === 64 ? sha256(bytes) : gitSha1(bytes))

/** Whether a file in a cache bears a name that says that it is whole. */
export function isNamed(path: string): boolean {
  return isFinal(path) && /\/(blobs|snapshots|refs)\/./.test(path)
}

/** What is wrong with a file under such a name: undefined for one whose bytes are what its name stands for. */
export function wrongFile(path: string, { files, commit }: { files: ModelFiles; commit: string }): string | undefined {
  const bytes = readFileSync(path)
  const [, kind, rest] = /\/(blobs|snapshots|refs)\/(.*)$/.exec(path) ?? []
  if (kind === 'blobs') return hashOf(bytes, rest) === rest ? undefined : `blob ${rest} has the hash of other bytes`
  if (kind === 'refs')
    return String(bytes) === commit ? undefined : `${rest} stands for ${JSON.stringify(String(bytes))}`
  const file = files[rest.slice(rest.indexOf('/') + 1)]
  return file?.equals(bytes) ? undefined : `${rest} has other bytes than the hub`
}

/** All files in a cache with names that say that they are whole, but are not. */
export function wrongFiles(home: string, hub: { files: ModelFiles; commit: string }): string[] {
  const found = filesIn(home)
  const wrong = found.filter(isNamed).map(path => {
    return existsSync(path) ? wrongFile(path, hub) : `${path} leads to nothing`
  })
  const isModel = found.some(path => path.endsWith('/refs/main'))
  return [...wrong.filter(text => text !== undefined), ...(isModel ? missingFiles(found, hub) : [])]
}

/** What is wrong, missing or left over after a pull that succeeded. */
export function unfinished(home: string, hub: { files: ModelFiles; commit: string }): string[] {
  const found = filesIn(home)
  const left = found.filter(path => !isFinal(path) && !isNameless(path)).map(path => `${path} is left`)
  const ref = found.some(path => path.endsWith('/refs/main'))
    ? []
    : ['refs/main is missing', ...missingFiles(found, hub)]
  return [...wrongFiles(home, hub), ...ref, ...left]
}

/** A link or a ref that never got its name: it has 40 bytes at most, and `hf cache prune` removes it. */
function isNameless(path: string): boolean {
  if (!/\/[0-9a-f]{16}\.tutti\.incomplete$/.test(path)) return false
  const found = lstatSync(path)
  return found.isSymbolicLink() || found.size <= 40
}

function missingFiles(found: string[], { files, commit }: { files: ModelFiles; commit: string }): string[] {
  const names = new Set(found.filter(path => path.includes(`/snapshots/${commit}/`)).map(path => basename(path)))
  return Object.keys(files).flatMap(name => (names.has(name) ? [] : [`${name} is missing`]))
}

/** Everything but folders; links are not followed. */
export function filesIn(folder: string): string[] {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true })
  return entries.filter(entry => !entry.isDirectory()).map(({ parentPath, name }) => join(parentPath, name))
}

/** How often a part was asked for again: of every range of every file all requests but the first. */
export function repeats({ log }: HubServer): number {
  const asked = log.filter(({ at, method }) => (at === 'link' || at === 'small') && method === 'GET')
  return asked.length - new Set(asked.map(({ path, headers }) => `${path} ${headers.range ?? ''}`)).size
}
