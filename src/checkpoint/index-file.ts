import { CheckpointError } from '../base/errors.ts'
import { type JsonObject, type JsonValue, parseJson, quoted } from '../base/json.ts'
import type { Folder } from './source.ts'

/** A config or an index is far smaller: 120b's index has 48 KB. */
const maxJsonBytes = 64 * 2 ** 20

/** Which file holds which tensor, by tensor name. */
export type WeightMap = ReadonlyMap<string, string>

/** Reads a JSON file whose value must be an object. Throws CheckpointError. */
export async function readJsonObject(folder: Folder, name: string): Promise<JsonObject> {
  const path = `${folder.path}/${name}`
  const size = await folder.size(name)
  if (size > maxJsonBytes) throw new CheckpointError(`${path} has ${size} bytes, more than the ${maxJsonBytes} allowed`)
  const bytes = await folder.read(name, 0, size)
  let value: JsonValue
  try {
    value = parseJson(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes))
  } catch (error) {
    const problem = error instanceof SyntaxError ? error.message : 'it is not valid UTF-8'
    throw new CheckpointError(`${path} is not valid JSON: ${problem}; download it again`)
  }
  if (value instanceof Map) return value
  throw new CheckpointError(`${path} must hold a JSON object; download it again`)
}

/** The folder's index; undefined where every *.safetensors belongs to the model. `names`: the files in the folder. */
export async function readIndex(folder: Folder, names: readonly string[]): Promise<WeightMap | undefined> {
  const indexes = names.filter(name => name.endsWith('.safetensors.index.json') && !name.includes('/'))
  const usual = 'model.safetensors.index.json'
  const name = indexes.includes(usual) ? usual : indexes[0]
  if (name === undefined) return undefined
  if (name !== usual && indexes.length > 1) {
    throw new CheckpointError(
      `${folder.path} has ${indexes.length} indexes (${indexes.join(', ')}); keep the model's own and name it ${usual}`,
    )
  }
  return parseIndex(await readJsonObject(folder, name), `${folder.path}/${name}`)
}

/** Checks that `weight_map` names plain files, nothing outside the folder. */
export function parseIndex(index: JsonObject, path: string): WeightMap {
  const weightMap = index.get('weight_map')
  if (!(weightMap instanceof Map) || weightMap.size === 0) {
    throw new CheckpointError(`${path} has no weight_map that says which file holds which tensor; download it again`)
  }
  for (const [tensor, file] of weightMap) {
    if (typeof file !== 'string' || !isPlainName(file)) {
      const given = typeof file === 'string' ? quoted(file) : 'no file name'
      throw new CheckpointError(
        `${path} gives ${given} for the tensor ${quoted(tensor)}: an index names plain *.safetensors files of its own folder; do not use this model before you know where it comes from`,
      )
    }
  }
  return weightMap
}

/** A name that stays inside its folder on every system: no separator, drive, stream, control character or leading dot. */
function isPlainName(name: string): boolean {
  return /^[^./\\:*?"<>|\0-\x1f\x7f][^/\\:*?"<>|\0-\x1f\x7f]*\.safetensors$/.test(name)
}
