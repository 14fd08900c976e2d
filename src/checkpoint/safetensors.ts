import { CheckpointError } from '../base/errors.ts'
import { JsonReader, quoted } from '../base/json.ts'
import type { Folder } from './source.ts'

/** Bits of one element by safetensors' name of its type. */
const elementBits: ReadonlyMap<string, number> = new Map(
  Object.entries({
    ...{ F4: 4, F6_E2M3: 6, F6_E3M2: 6, BOOL: 8, U8: 8, I8: 8 },
    ...{ F8_E5M2: 8, F8_E4M3: 8, F8_E8M0: 8, F8_E4M3FNUZ: 8, F8_E5M2FNUZ: 8 },
    ...{ I16: 16, U16: 16, F16: 16, BF16: 16, I32: 32, U32: 32, F32: 32, C64: 64, F64: 64, I64: 64, U64: 64 },
  }),
)

/** The longest header that is read: the format's own limit. */
const maxHeaderBytes = 100_000_000
const lengthBytes = 8
const maxUint64 = 0xffff_ffff_ffff_ffffn

/** One tensor as the header declares it. */
export interface HeaderTensor {
  readonly name: string
  readonly dataType: string
  /** A dimension beyond 2^53, legal where another is 0, is rounded. */
  readonly shape: readonly number[]
  /** Its first byte in the file, and the one behind its last. */
  readonly begin: number
  readonly end: number
}

export interface SafetensorsHeader {
  readonly metadata: ReadonlyMap<string, string>
  /** By their place in the file. */
  readonly tensors: readonly HeaderTensor[]
}

/**
 * Reads and checks the header of a safetensors file. Accepts what the reference (the Rust crate `safetensors` 0.8)
 * accepts, but no key twice in an object. Throws a CheckpointError that names the file. Source: the format's README.
 */
export async function readHeader(folder: Folder, file: string): Promise<SafetensorsHeader> {
  const size = await folder.size(file)
  const path = `${folder.path}/${file}`
  if (size < lengthBytes)
    damaged(path, `it has ${size} bytes, fewer than the ${lengthBytes} that say how long the header is`)
  const start = await folder.read(file, 0, Math.min(size, 32))
  const length = new DataView(start.buffer, start.byteOffset).getBigUint64(0, true)
  if (length > maxHeaderBytes || length > size - lengthBytes) refuseLength(path, start, length, size)
  const header = await folder.read(file, lengthBytes, lengthBytes + Number(length))
  return parseHeader(header, size, path)
}

/** The header proper, of a file of `fileBytes`; `path` is for messages. */
export function parseHeader(header: Uint8Array, fileBytes: number, path: string): SafetensorsHeader {
  const { metadata, entries } = parseEntries(header, path)
  entries.sort(byPlace)
  const dataBegin = lengthBytes + header.length
  let end = 0
  for (const entry of entries) {
    if (entry.begin !== end || entry.end < end) misplaced(path, entry, end)
    checkSize(path, entry)
    end = Number(entry.end)
  }
  if (dataBegin + end !== fileBytes) refuseFileSize(path, dataBegin + end, fileBytes)
  const tensors = entries.map(({ name, dataType, shape, begin, end }) => {
    return { name, dataType, shape: shape.map(Number), begin: dataBegin + Number(begin), end: dataBegin + Number(end) }
  })
  return { metadata, tensors }
}

/** What the header says of one tensor, each integer exact. */
interface Entry {
  name: string
  dataType: string
  shape: (number | bigint)[]
  begin: number | bigint
  end: number | bigint
}

function parseEntries(header: Uint8Array, path: string): { metadata: ReadonlyMap<string, string>; entries: Entry[] } {
  const entries: Entry[] = []
  let metadata: ReadonlyMap<string, string> = new Map()
  const json = new JsonReader(decodeText(header, path))
  try {
    json.object(name => {
      if (name === '__metadata__') metadata = readMetadata(json)
      else entries.push(readEntry(json, name))
    })
    json.end()
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    damaged(path, `its header is not what safetensors allows: ${error.message}`)
  }
  return { metadata, entries }
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function decodeText(header: Uint8Array, path: string): string {
  try {
    return utf8.decode(header)
  } catch {
    return damaged(path, `its header of ${header.length} bytes is not valid UTF-8`)
  }
}

function readMetadata(json: JsonReader): ReadonlyMap<string, string> {
  const metadata = new Map<string, string>()
  if (json.peek() === 'n') json.null()
  else json.object(key => metadata.set(key, json.string()))
  return metadata
}

/** The reference also takes [dtype, shape, data_offsets] in place of an object, and so do we. */
function readEntry(json: JsonReader, name: string): Entry {
  const entry: Partial<Entry> = { name }
  const read = (field: string | undefined): void => {
    if (field === 'dtype') entry.dataType = readDataType(json, name)
    else if (field === 'shape') entry.shape = readUnsigneds(json)
    else if (field === 'data_offsets') [entry.begin, entry.end] = readOffsets(json, name)
    else json.skip()
  }
  if (json.peek() === '[') {
    json.array(index =>
      index < 3 ? read(['dtype', 'shape', 'data_offsets'][index]) : json.fail('expected three elements'),
    )
  } else {
    json.object(read)
  }
  const { dataType, shape, begin, end } = entry
  if (dataType === undefined || shape === undefined || begin === undefined || end === undefined) {
    return json.fail(`the tensor ${quoted(name)} lacks its dtype, shape or data_offsets`)
  }
  return { name, dataType, shape, begin, end }
}

/** The reference also takes {"F32": null} in place of "F32", and so do we. */
function readDataType(json: JsonReader, name: string): string {
  let dataType: string | undefined
  if (json.peek() === '"') {
    dataType = json.string()
  } else {
    json.object(key => {
      if (dataType !== undefined) json.fail('expected one dtype')
      dataType = key
      json.null()
    })
  }
  if (dataType !== undefined && elementBits.has(dataType)) return dataType
  return json.fail(`the tensor ${quoted(name)} has the unknown dtype ${quoted(dataType ?? '')}`)
}

function readUnsigneds(json: JsonReader): (number | bigint)[] {
  const out: (number | bigint)[] = []
  json.array(() => out.push(json.unsigned()))
  return out
}

function readOffsets(json: JsonReader, name: string): (number | bigint)[] {
  const offsets = readUnsigneds(json)
  return offsets.length === 2 ? offsets : json.fail(`${quoted(name)} has ${offsets.length} data_offsets instead of 2`)
}

function byPlace(a: Entry, b: Entry): number {
  if (a.begin !== b.begin) return a.begin < b.begin ? -1 : 1
  return a.end < b.end ? -1 : a.end > b.end ? 1 : 0
}

/** Shape and type must say as many bytes as the offsets. Products stay below 2^64, as in the reference. */
function checkSize(path: string, entry: Entry): void {
  const { name, dataType, shape, begin, end } = entry
  const bits = shape.reduce(checkedProduct, 1)
  const total = checkedProduct(bits, elementBits.get(dataType)!)
  const what = `${quoted(name)} (${dataType} [${shape.join(', ')}])`
  if (total === -1) damaged(path, `the tensor ${what} has more bits than 64-bit numbers can count`)
  if (BigInt(total) % 8n !== 0n) damaged(path, `the tensor ${what} does not end at a whole byte`)
  const bytes = BigInt(total) / 8n
  if (bytes !== BigInt(end) - BigInt(begin)) {
    damaged(path, `the tensor ${what} needs ${bytes} bytes and its data_offsets hold ${BigInt(end) - BigInt(begin)}`)
  }
}

/** a · b, exact; −1 from 2^64 on, and ever after. */
function checkedProduct(a: number | bigint, b: number | bigint): number | bigint {
  if (a === -1) return -1
  const product = Number(a) * Number(b)
  if (Number.isSafeInteger(product)) return product
  const exact = BigInt(a) * BigInt(b)
  return exact > maxUint64 ? -1 : exact
}

function misplaced(path: string, { name, begin, end }: Entry, expected: number): never {
  const where = `the tensor ${quoted(name)} has data_offsets [${begin}, ${end}]`
  if (end < begin) damaged(path, `${where}: they end before they begin`)
  damaged(path, `${where} where ${expected} must follow: ${begin < expected ? 'tensors overlap' : 'there is a hole'}`)
}

function damaged(path: string, problem: string): never {
  throw new CheckpointError(`${path} is damaged: ${problem}; download it again`)
}

function refuseFileSize(path: string, expected: number, size: number): never {
  const difference = Math.abs(expected - size)
  damaged(
    path,
    size < expected
      ? `it has ${size} of ${expected} bytes, ${difference} fewer than its header says (an incomplete download)`
      : `it has ${size} bytes instead of ${expected}, ${difference} behind its last tensor`,
  )
}

/** Other things that go by the name of a safetensors file; each would otherwise look like an absurd header length. */
const impostors: readonly (readonly [start: string, what: string])[] = [
  ['version https://git-lfs', 'a Git LFS pointer, not the file itself: run "git lfs pull" in the folder'],
  [
    'GGUF',
    'a GGUF file: tutti reads safetensors; download the original model (openai/gpt-oss-20b or openai/gpt-oss-120b)',
  ],
  ['PK\x03\x04', 'a zip archive (PyTorch or npz): convert it to safetensors'],
  ['<!DOCTYPE', 'a web page: the download gave an error page; download the file again'],
  ['<!doctype', 'a web page: the download gave an error page; download the file again'],
  ['<html', 'a web page: the download gave an error page; download the file again'],
]

function refuseLength(path: string, start: Uint8Array, length: bigint, size: number): never {
  const text = String.fromCharCode(...start)
  const impostor = impostors.find(([prefix]) => text.startsWith(prefix))
  if (impostor) throw new CheckpointError(`${path} is ${impostor[1]}`)
  const limit =
    length > maxHeaderBytes
      ? `more than the ${maxHeaderBytes} that the format allows`
      : `more than the ${size - lengthBytes} that follow`
  damaged(path, `its header is said to have ${length} bytes, ${limit}`)
}
