import { CheckpointError } from '../base/errors.ts'
import { type JsonObject, quoted } from '../base/json.ts'
import { readIndex, readJsonObject, type WeightMap } from './index-file.ts'
import { detectLayout, type Layout } from './names.ts'
import { type HeaderTensor, readHeader } from './safetensors.ts'
import { type Folder, subfolder } from './source.ts'

/** A tensor in a file of the checkpoint. */
export interface StoredTensor {
  readonly name: string
  /** safetensors' name of the type: `BF16`, `F32`, `U8`, … */
  readonly dataType: string
  readonly shape: readonly number[]
  readonly byteLength: number
  /** The file of the checkpoint's folder that holds it. */
  readonly file: string
  /** The same file's path and the tensor's first byte there, where it can be mapped. */
  readonly location?: { readonly path: string; readonly begin: number }
  /** The bytes from `begin` up to `end` of the tensor (all by default), little-endian as in the file. */
  read(begin?: number, end?: number): Promise<Uint8Array>
}

/** The files of a model, opened: headers read and checked, weights not yet. */
export interface Checkpoint {
  /** Whose names the tensors have: OpenAI's (`original/`) or Hugging Face's. */
  readonly layout: Layout
  /** Where the weights lie. */
  readonly folder: Folder
  /** The whole of `config.json`, and where it lies. */
  readonly config: JsonObject
  readonly configPath: string
  readonly tensors: ReadonlyMap<string, StoredTensor>
  /** Bytes of all tensors. */
  readonly byteLength: number
  /** Where tensors of our own making lie, if there are some. */
  readonly note?: string
  close(): Promise<void>
}

/**
 * Opens the model in a folder: `config.json` beside *.safetensors, or both in `original/` as OpenAI publishes them. With
 * an index, its files are the model; without one, every *.safetensors is. Takes the folder over, closing it on failure.
 * Throws CheckpointError. What the tensors must be is checked by the model, not here.
 */
export async function openCheckpoint(folder: Folder): Promise<Checkpoint> {
  try {
    const { weights, configFolder } = await locate(folder)
    const names = await weights.list()
    const config = await readJsonObject(configFolder, 'config.json')
    const index = await readIndex(weights, names)
    const tensors = await openTensors(weights, index ? filesOf(index) : names.filter(isWeightFile))
    if (index) checkIndex(weights, index, tensors)
    return {
      layout: detectLayout(tensors.keys()) ?? refuseNames(weights, tensors),
      folder: weights,
      config,
      configPath: `${configFolder.path}/config.json`,
      tensors,
      byteLength: [...tensors.values()].reduce((sum, tensor) => sum + tensor.byteLength, 0),
      close: () => folder.close(),
    }
  } catch (error) {
    await folder.close()
    throw error
  }
}

const isWeightFile = (name: string): boolean => name.endsWith('.safetensors') && !name.includes('/')
const filesOf = (index: WeightMap): string[] => [...new Set(index.values())].sort()

/** Where weights and config lie. */
async function locate(folder: Folder): Promise<{ weights: Folder; configFolder: Folder }> {
  const names = await folder.list()
  const original = subfolder(folder, 'original')
  const hasWeights = (prefix: string) =>
    names.some(
      name => name.startsWith(prefix) && /^[^/]+\.safetensors(\.index\.json)?$/.test(name.slice(prefix.length)),
    )
  const weights = hasWeights('') ? folder : hasWeights('original/') ? original : refuseFolder(folder, names)
  const here = weights === folder ? 'config.json' : 'original/config.json'
  if (!names.includes(here) && !names.includes('config.json')) {
    throw new CheckpointError(
      `${weights.path} has weights and no config.json; download it too (it lies beside them where the model is published)`,
    )
  }
  return { weights, configFolder: names.includes(here) ? weights : folder }
}

/** There are no safetensors: says what there is instead. */
function refuseFolder(folder: Folder, names: readonly string[]): never {
  const found = (suffix: string) => names.find(name => name.endsWith(suffix))
  const download = 'download openai/gpt-oss-20b or openai/gpt-oss-120b, the *.safetensors files and config.json'
  const gguf = found('.gguf')
  if (gguf) throw new CheckpointError(`${folder.path} holds GGUF (${gguf}), and tutti reads safetensors: ${download}`)
  const other = found('.bin') ?? found('.pt') ?? found('.pth') ?? found('.onnx')
  if (other) throw new CheckpointError(`${folder.path} holds ${other}, and tutti reads safetensors: ${download}`)
  const partial = found('.safetensors.incomplete') ?? found('.safetensors.part') ?? found('.safetensors.download')
  if (partial) throw new CheckpointError(`${folder.path} holds an unfinished download (${partial}): finish it`)
  throw new CheckpointError(
    `${folder.path} holds no *.safetensors (${names.length} other files): check the path, or ${download}`,
  )
}

/** The tensors of all files by name. */
async function openTensors(folder: Folder, files: readonly string[]): Promise<Map<string, StoredTensor>> {
  const tensors = new Map<string, StoredTensor>()
  for (const file of files) {
    const { tensors: declared } = await readHeader(folder, file)
    for (const tensor of declared) {
      const other = tensors.get(tensor.name)
      if (other) {
        throw new CheckpointError(
          `${folder.path} has the tensor ${quoted(tensor.name)} twice, in ${other.file} and in ${file}: ` +
            'remove the files that do not belong to the model',
        )
      }
      tensors.set(tensor.name, storedTensor(folder, file, tensor))
    }
  }
  return tensors
}

/** A tensor that a header of a file in the folder declares. */
export function storedTensor(folder: Folder, file: string, declared: HeaderTensor): StoredTensor {
  const { name, dataType, shape, begin: first, end: last } = declared
  const byteLength = last - first
  return {
    name,
    dataType,
    shape,
    byteLength,
    file,
    ...(folder.pathOf && { location: { path: folder.pathOf(file), begin: first } }),
    async read(begin = 0, end = byteLength) {
      if (!(0 <= begin && begin <= end && end <= byteLength)) {
        throw new RangeError(`${name} has ${byteLength} bytes; cannot read ${begin} to ${end}`)
      }
      return folder.read(file, first + begin, first + end)
    },
  }
}

/** The index and the files must say the same. */
function checkIndex(folder: Folder, index: WeightMap, tensors: ReadonlyMap<string, StoredTensor>): void {
  const cure = 'the index and the files are not of one download; download the model again'
  for (const [name, file] of index) {
    const tensor = tensors.get(name)
    if (tensor?.file === file) continue
    const where = tensor ? `it lies in ${tensor.file}` : 'it lies in none of the files'
    throw new CheckpointError(
      `${folder.path}: the index has the tensor ${quoted(name)} in ${file}, but ${where}: ${cure}`,
    )
  }
  for (const tensor of tensors.values()) {
    if (index.has(tensor.name)) continue
    throw new CheckpointError(
      `${folder.path}: ${tensor.file} has the tensor ${quoted(tensor.name)}, which the index does not list: ${cure}`,
    )
  }
}

function refuseNames(folder: Folder, tensors: ReadonlyMap<string, StoredTensor>): never {
  const some = [...tensors.keys()].slice(0, 3).map(quoted).join(', ')
  throw new CheckpointError(
    tensors.size === 0
      ? `${folder.path} has weight files without a tensor in them; download them again`
      : `${folder.path} is not gpt-oss: among its ${tensors.size} tensors (${some}, …) there is no layer of OpenAI's ` +
          "(block.0.…) or Hugging Face's (model.layers.0.…) naming; tutti runs gpt-oss-20b and gpt-oss-120b",
  )
}
