import { CheckpointError } from '../base/errors.ts'

const url = new URL('./vocabulary.generated.bin', import.meta.url)

/** The packed vocabulary of o200k, for `unpackVocabulary`. Throws CheckpointError if its file is missing or damaged. */
export async function loadVocabulary(): Promise<Uint8Array> {
  const response = await fetch(url)
  if (!response.ok || !response.body)
    throw new CheckpointError(
      `Cannot fetch the vocabulary ${url} (status ${response.status}): serve vocabulary.generated.bin beside this module.`,
    )
  try {
    const stream = response.body.pipeThrough(new DecompressionStream('deflate'))
    return new Uint8Array(await new Response(stream).arrayBuffer())
  } catch (cause) {
    throw new CheckpointError(`The vocabulary ${url} is damaged: copy it again from the package.`, { cause })
  }
}
