import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { inflate } from 'node:zlib'
import { CheckpointError } from '../base/errors.ts'

const url = new URL('./vocabulary.generated.bin', import.meta.url)

/** The packed vocabulary of o200k, for `unpackVocabulary`. Throws CheckpointError if its file is missing or damaged. */
export async function loadVocabulary(): Promise<Uint8Array> {
  const packed = await readFile(url).catch(cause => {
    throw new CheckpointError(
      `Cannot read the vocabulary ${fileURLToPath(url)} (${cause.code}): run "npm ci" in the repository, which builds it, ` +
        'or install the package again.',
      { cause },
    )
  })
  return await promisify(inflate)(packed).catch(cause => {
    throw new CheckpointError(
      `The vocabulary ${fileURLToPath(url)} is damaged (${packed.length} bytes, ${cause.message}): run "npm ci" in the ` +
        'repository, which builds it, or install the package again.',
      { cause },
    )
  })
}
