import { CheckpointError, RequestError } from '../base/errors.ts'
import type { HubFile } from './hub-client.ts'

/**
 * A repository of gpt-oss can hold its weights three times. `root`: Hugging Face's names, shards named by an index.
 * `original`: OpenAI's names, in a folder. The third, `metal/`, is for another program.
 */
export type Layout = 'root' | 'original'

export const indexName = 'model.safetensors.index.json'

/** What is taken beside the weights, where the repository has it. */
const smallFiles = new Set([
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'chat_template.jinja',
  'LICENSE',
  'USAGE_POLICY',
])

/** The files to take first: small, and they say what the weights are. */
export function firstFiles(files: readonly HubFile[], layout: Layout): HubFile[] {
  const inOriginal = (path: string) => layout === 'original' && /^original\/[^./][^/]*\.json$/.test(path)
  return files.filter(
    ({ path }) => smallFiles.has(path) || (layout === 'root' && path === indexName) || inOriginal(path),
  )
}

/**
 * The weights to take. `shards`: what the layout's index names, where it has one; without one the model is the single
 * file `model.safetensors`, or for `original` all of them.
 */
export function weightFiles(
  files: readonly HubFile[],
  { id, layout, shards }: { id: string; layout: Layout; shards?: readonly string[] },
): HubFile[] {
  const folder = layout === 'root' ? '' : 'original/'
  const byPath = new Map(files.map(file => [file.path, file]))
  if (shards) {
    return shards.map(shard => {
      const file = byPath.get(folder + shard)
      if (file) return file
      throw new CheckpointError(`${id} has no ${folder}${shard}, which its index names: its upload is not complete`)
    })
  }
  const isWeights = (path: string) =>
    layout === 'root' ? path === 'model.safetensors' : /^original\/[^./][^/]*\.safetensors$/.test(path)
  const found = files.filter(({ path }) => isWeights(path))
  return found.length > 0 ? found : refuseLayout(files, id, layout)
}

function refuseLayout(files: readonly HubFile[], id: string, layout: Layout): never {
  const original = files.some(({ path }) => /^original\/.*\.safetensors$/.test(path))
  const other = layout === 'root' ? original : files.some(({ path }) => path === indexName)
  const cure = other
    ? `it has the other layout: ${layout === 'root' ? 'add --layout=original' : 'leave --layout=original away'}`
    : 'tutti reads safetensors of gpt-oss, as in openai/gpt-oss-20b'
  throw new RequestError(
    `${id} has no weights ${layout === 'root' ? 'beside its config.json' : 'in original/'}: ${cure}`,
  )
}
