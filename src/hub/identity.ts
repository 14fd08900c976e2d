import { createHash } from 'node:crypto'
import { type FileHandle, open } from 'node:fs/promises'
import { basename } from 'node:path'
import { CheckpointError } from '../base/errors.ts'
import type { Checkpoint, StoredTensor } from '../checkpoint/checkpoint.ts'
import type { ModelConfig } from '../model/config.ts'
import { type Fingerprint, fingerprintOf, isSame } from './records.ts'
import { recordedIn } from './records-load.ts'

/** Files of fewer bytes together are read whole. */
const smallBytes = 128 * 2 ** 20
const sampleBytes = 512

/** A file of tensors, as it was when it was opened. */
interface WeightFile {
  readonly path: string
  readonly found: Fingerprint
  readonly tensors: StoredTensor[]
}

/**
 * What tells a model's weights and configuration from all others, once somebody asks: the hashes of its files, where they
 * were recorded when the model was pulled, or where they are small. Of others name, size, time of change and some bytes of
 * each tensor: a copy of such a model is another one. It throws CheckpointError where files have changed since this call.
 */
export async function identityOf(
  checkpoint: Checkpoint,
  config: ModelConfig,
  cacheFolder?: string,
): Promise<() => Promise<string>> {
  const { layout, folder } = checkpoint
  const files = await weightFiles(checkpoint)
  let identity: Promise<string> | undefined
  const identify = async () => {
    const recorded = await recordedIn(folder.path, cacheFolder)
    const numBytes = files.reduce((sum, { found }) => sum + found.size, 0)
    const contents: string[] = []
    for (const file of files) {
      const now = await fingerprintOf(file.path)
      if (!isSame(now, file.found)) changed(file.path)
      const record = recorded(basename(file.path))
      if (record && isSame(record, now)) contents.push(record.hash)
      else contents.push(await (numBytes <= smallBytes ? hashOf(file.path) : hashOfSamples(file)))
    }
    return createHash('sha256').update(JSON.stringify({ config, layout, contents })).digest('hex')
  }
  return () => (identity ??= identify())
}

async function weightFiles({ tensors }: Checkpoint): Promise<WeightFile[]> {
  const byPath = Map.groupBy(tensors.values(), tensor => tensor.location!.path)
  const paths = [...byPath.keys()].sort()
  return Promise.all(paths.map(async path => ({ path, found: await fingerprintOf(path), tensors: byPath.get(path)! })))
}

function changed(path: string): never {
  throw new CheckpointError(`${path} was changed after the model was loaded from it: load the model again`)
}

async function hashOf(path: string): Promise<string> {
  const sum = createHash('sha256')
  const handle = await open(path)
  for await (const piece of handle.createReadStream()) sum.update(piece) // which closes it
  return sum.digest('hex')
}

async function hashOfSamples({ path, found, tensors }: WeightFile): Promise<string> {
  const sum = createHash('sha256').update(JSON.stringify([basename(path), found.size, found.mtime]))
  const handle = await open(path)
  try {
    for (const tensor of tensors) sum.update(await sample(handle, tensor))
  } finally {
    await handle.close()
  }
  return sum.digest('hex')
}

/** Some bytes from the middle of a tensor, and where it lies. */
async function sample(handle: FileHandle, { name, shape, byteLength, location }: StoredTensor): Promise<Buffer> {
  const begin = location!.begin + Math.floor(byteLength / 2)
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(sampleBytes), 0, sampleBytes, begin)
  return Buffer.concat([Buffer.from(JSON.stringify([name, shape, location!.begin])), buffer.subarray(0, bytesRead)])
}
