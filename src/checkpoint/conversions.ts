import { CheckpointError } from '../base/errors.ts'
import type { Checkpoint, StoredTensor } from './checkpoint.ts'
import {
  exactBfloat16,
  type FloatType,
  floatBytes,
  isFloatType,
  numberAt,
  packExactly,
  whyUnfit,
} from './exact-pack.ts'
import type { Mxfp4 } from './mxfp4.ts'
import type { TensorDeclaration } from './write.ts'

/**
 * A tensor that transformers saved otherwise than gpt-oss was published, and what of ours it becomes: experts that were
 * dequantised, [experts, inputs, outputs], are packed to MXFP4 again; other numbers in float16 or float32 become bfloat16.
 */
export interface Conversion {
  readonly source: StoredTensor
  /** Blocks and scales of experts, or one tensor in bfloat16. */
  readonly made: readonly TensorDeclaration[]
}

/** What has to be converted of a checkpoint in Hugging Face's layout, in its own order. */
export function conversionsOf(checkpoint: Pick<Checkpoint, 'layout' | 'tensors'>): Conversion[] {
  const { layout, tensors } = checkpoint
  if (layout !== 'huggingface') return []
  return [...tensors.values()].flatMap(source => {
    const made = isFloatType(source.dataType) ? declareMade(source, source.dataType) : []
    return made.length === 0 || made.some(({ name }) => name !== source.name && tensors.has(name))
      ? []
      : [{ source, made }]
  })
}

function declareMade({ name, shape }: StoredTensor, dataType: FloatType): TensorDeclaration[] {
  if (/\.mlp\.experts\.(gate_up_proj|down_proj)$/.test(name)) {
    const [experts, inputs, outputs] = shape
    if (shape.length !== 3 || inputs % 32 !== 0 || inputs === 0 || outputs === 0) return []
    const groups = [experts, outputs, inputs / 32]
    return [declare(`${name}_blocks`, 'U8', [...groups, 16], 1), declare(`${name}_scales`, 'U8', groups, 1)]
  }
  return dataType === 'BF16' ? [] : [declare(name, 'BF16', shape, 2)]
}

function declare(name: string, dataType: string, shape: readonly number[], elementBytes: number): TensorDeclaration {
  return { name, dataType, shape, byteLength: shape.reduce((product, size) => product * size, elementBytes) }
}

/** Bytes for one of `made`, at their place in it. */
export interface Piece {
  readonly made: TensorDeclaration
  readonly begin: number
  readonly bytes: Uint8Array
  /** Of the source, how much has been read for it since the last piece. */
  readonly readBytes: number
}

/**
 * Converts a tensor of the checkpoint at `path`. Some `pieceBytes` of it are in memory at a time, whole numbers, and of
 * experts 32 inputs at least and what one is packed to. Throws CheckpointError where a number would change.
 */
export function convert(conversion: Conversion, path: string, pieceBytes = 8 * 2 ** 20): AsyncGenerator<Piece, void> {
  return conversion.made.length === 2
    ? packExperts(conversion, path, pieceBytes)
    : toBfloat16Pieces(conversion, path, pieceBytes)
}

async function* packExperts(
  { source, made: [blocks, scales] }: Conversion,
  path: string,
  pieceBytes: number,
): AsyncGenerator<Piece, void> {
  const [experts, inputs, outputs] = source.shape
  const packed: Mxfp4 = {
    blocks: new Uint8Array(blocks.byteLength / experts),
    scales: new Uint8Array(scales.byteLength / experts),
  }
  for (let expert = 0; expert < experts; expert++) {
    await packExpert(source, expert, packed, path, pieceBytes)
    const readBytes = inputs * outputs * floatBytes[source.dataType as FloatType]
    yield { made: blocks, begin: expert * packed.blocks.length, bytes: packed.blocks, readBytes }
    yield { made: scales, begin: expert * packed.scales.length, bytes: packed.scales, readBytes: 0 }
  }
}

async function packExpert(
  source: StoredTensor,
  expert: number,
  packed: Mxfp4,
  path: string,
  pieceBytes: number,
): Promise<void> {
  const dataType = source.dataType as FloatType
  const [, inputs, outputs] = source.shape
  const rowBytes = outputs * floatBytes[dataType]
  const groups = inputs / 32
  const groupsAtATime = Math.max(1, Math.floor(pieceBytes / (32 * rowBytes)))
  for (let first = 0; first < groups; first += groupsAtATime) {
    const count = Math.min(groupsAtATime, groups - first)
    const begin = (expert * inputs + first * 32) * rowBytes
    const bytes = await source.read(begin, begin + count * 32 * rowBytes)
    const words = new Uint16Array(count * 32 * outputs)
    const inexact = exactBfloat16(dataType, bytes, words)
    const unfit =
      inexact < 0
        ? packExactly(words, outputs, packed, first)
        : { row: inexact % outputs, group: first + Math.floor(inexact / outputs / 32) }
    if (!unfit) continue
    const { row, group } = unfit
    const numbers = Array.from({ length: 32 }, (_, i) => {
      return numberAt(dataType, bytes, ((group - first) * 32 + i) * outputs + row)
    })
    throw new CheckpointError(
      `${source.name} in ${path} is not MXFP4: the 32 numbers of expert ${expert}, row ${row}, block ${group} cannot be kept ` +
        `exactly (${whyUnfit(numbers)}). The weights were changed after they were dequantised, and tutti rounds no ` +
        'expert by itself: save the model with its experts in MXFP4 (transformers does, loaded with Mxfp4Config() on a ' +
        'machine with its MXFP4 kernels), or use the published model',
    )
  }
}

async function* toBfloat16Pieces(
  { source, made: [made] }: Conversion,
  path: string,
  pieceBytes: number,
): AsyncGenerator<Piece, void> {
  const dataType = source.dataType as FloatType
  const size = floatBytes[dataType]
  for (let begin = 0; begin < source.byteLength; begin += pieceBytes) {
    const bytes = await source.read(begin, Math.min(source.byteLength, begin + pieceBytes))
    const words = new Uint16Array(bytes.length / size)
    const inexact = exactBfloat16(dataType, bytes, words)
    if (inexact >= 0) {
      throw new CheckpointError(
        `${source.name} in ${path} is ${dataType}, and its number ${begin / size + inexact}, ` +
          `${numberAt(dataType, bytes, inexact)}, is not bfloat16's: gpt-oss is bfloat16 with MXFP4 experts, and tutti ` +
          'rounds no weight by itself; save the model in bfloat16 (model.to(torch.bfloat16)), or use the published one',
      )
    }
    yield { made, begin: (begin / size) * 2, bytes: new Uint8Array(words.buffer), readBytes: bytes.length }
  }
}
