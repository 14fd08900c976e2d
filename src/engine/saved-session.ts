import { RequestError } from '../base/errors.ts'
import { type SealedReader, type SealedWriter, sealBytes } from '../base/sealed.ts'
import { type CacheOutline, isOutline } from '../model/kv-cache.ts'
import type { EngineInfo } from './engine.ts'
import type { Session } from './session.ts'

/**
 * A session as bytes: a line with the version, the length of the header (uint32), the header in JSON; the tokens (int32);
 * the note; and what each layer holds (KvCache.save). Each is a section with its seal behind it. Numbers are little-endian.
 */
const lineStart = 'tutti session '
const line = `${lineStart}1\n`
const maxHeaderBytes = 64 * 2 ** 10

/** What keys and values belong to: nothing else can use them. */
export interface SessionBinding {
  /** What the model is called, for people. */
  readonly model: string
  /** What tells its weights and its configuration from all others. */
  readonly weights: string
  /** `Device.cacheFormat` */
  readonly cache: string
}

/** A saved session, but for its keys and values. */
export interface SavedSession {
  readonly binding: SessionBinding
  readonly tokens: readonly number[]
  /** Of whoever saved it; empty if there is none. */
  readonly note: string
  readonly outline: CacheOutline
}

/** Where sessions are saved, and what the model's weights are. */
export interface SessionFiles {
  /** What tells the weights that were loaded, and their configuration, from all others. */
  weights(): Promise<string>
  /** A file that appears whole, by `finish`, or not at all. */
  create(path: string): Promise<SealedWriter & { finish(): Promise<void>; abandon(): Promise<void> }>
  /** Throws RequestError where there is none. */
  open(path: string): Promise<SealedReader & { close(): Promise<void> }>
}

/** Told how many bytes of how many are copied. */
export type OnCopied = (done: number, total: number) => void

/** Writes a session that rests and that nobody runs meanwhile. */
export async function saveSession(
  session: Session,
  { binding, note }: Pick<SavedSession, 'binding' | 'note'>,
  to: SealedWriter,
  onCopied?: OnCopied,
): Promise<void> {
  const { tokens, outline } = session
  const marks = outline.marks.map(({ from, position }) => [from, position])
  const noteBytes = new TextEncoder().encode(note)
  const header = { ...binding, tokens: tokens.length, note: noteBytes.length, marks }
  const sections = [headerSection(header), new Uint8Array(Int32Array.from(tokens).buffer), noteBytes]
  const total = sections.reduce((sum, { length }) => sum + length + sealBytes, bytesOf(session, outline))
  const counting = counted(to, done => onCopied?.(done, total))
  for (const bytes of sections) {
    await counting.write(bytes)
    await counting.seal()
  }
  await session.save(counting)
}

function headerSection(header: object): Uint8Array {
  const text = new TextEncoder().encode(JSON.stringify(header))
  const bytes = new Uint8Array(line.length + 4 + text.length)
  bytes.set(new TextEncoder().encode(line))
  new DataView(bytes.buffer).setUint32(line.length, text.length, true)
  bytes.set(text, line.length + 4)
  return bytes
}

function counted(to: SealedWriter, onWritten: (done: number) => void): SealedWriter {
  let done = 0
  return {
    async write(bytes) {
      await to.write(bytes)
      onWritten((done += bytes.length))
    },
    async seal() {
      await to.seal()
      onWritten((done += sealBytes))
    },
  }
}

/** Bytes of a session's keys and values, with their seals. */
function bytesOf(session: Session, outline: CacheOutline): number {
  const { bytes, numSections } = session.savedSize(outline)
  return bytes + sealBytes * numSections
}

/**
 * Reads what comes before keys and values. Throws RequestError where that is damaged, or nothing for a model of these
 * sizes.
 */
export async function readSaved(
  from: SealedReader,
  { vocabSize, contextLength }: Pick<EngineInfo, 'vocabSize' | 'contextLength'>,
): Promise<SavedSession> {
  const { binding, outline, noteBytes } = await readHeader(from)
  const { length } = outline
  if (4 * length + noteBytes > from.bytesLeft) damaged(from)
  if (length > contextLength) {
    refuse(from, `holds ${length} tokens, and the context ${contextLength}: load the model with a longer one`)
  }
  const bytes = await from.read(4 * length)
  await from.checkSeal()
  const tokens = [...new Int32Array(bytes.buffer)]
  const wrong = tokens.find(token => token < 0 || token >= vocabSize)
  if (wrong !== undefined) {
    refuse(from, `holds token ${wrong}, and this model's run from 0 to ${vocabSize - 1}: load ${binding.model}`)
  }
  const note = new TextDecoder().decode(await from.read(noteBytes))
  await from.checkSeal()
  return { binding, tokens, note, outline }
}

/** What the header tells. */
type Header = Pick<SavedSession, 'binding' | 'outline'> & { noteBytes: number }

async function readHeader(from: SealedReader): Promise<Header> {
  if (from.bytesLeft < line.length + 4)
    refuse(from, `has ${from.bytesLeft} bytes: it is no session that tutti saved; give the path of one`)
  const found = String.fromCharCode(...(await from.read(line.length)))
  if (!found.startsWith(lineStart)) refuse(from, 'is no session that tutti saved: give the path of one')
  if (found !== line) {
    refuse(from, `has another version than this tutti reads (${JSON.stringify(found)}, not ${JSON.stringify(line)})`)
  }
  const headerBytes = new DataView((await from.read(4)).buffer).getUint32(0, true)
  if (headerBytes > Math.min(maxHeaderBytes, from.bytesLeft)) damaged(from)
  const header = await from.read(headerBytes)
  await from.checkSeal()
  return parseHeader(new TextDecoder().decode(header)) ?? damaged(from)
}

/** Undefined for what was never written here. */
function parseHeader(text: string): Header | undefined {
  let header: Record<string, unknown> | null
  try {
    header = JSON.parse(text)
  } catch {
    return undefined
  }
  const { model, weights, cache, tokens, note, marks } = header ?? {}
  const areTexts = [model, weights, cache].every(value => typeof value === 'string')
  if (!areTexts || !isCount(tokens) || !isCount(note) || !Array.isArray(marks)) return undefined
  const isMark = (mark: unknown) => Array.isArray(mark) && mark.length === 2 && mark.every(isCount)
  if (!marks.every(isMark)) return undefined
  const outline = { length: tokens, marks: marks.map(([from, position]) => ({ from, position })) }
  const binding = { model, weights, cache } as SessionBinding
  return isOutline(outline) ? { binding, outline, noteBytes: note } : undefined
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

/** Why the keys and values of a saved session are of no use to a model, if they are. */
export function whyForeign(from: SealedReader, saved: SessionBinding, own: SessionBinding): string | undefined {
  if (saved.model !== own.model) return `${from.name} was saved with ${saved.model}, and this is ${own.model}`
  if (saved.weights !== own.weights)
    return `${from.name} was saved with other weights of ${own.model}, or other files of them`
  if (saved.cache === own.cache) return undefined
  return `${from.name} holds keys and values of another kind (${saved.cache}) than this device keeps (${own.cache})`
}

/** Whether so much follows in the file as it must. */
export function sizeIsRight(session: Session, { outline }: SavedSession, from: SealedReader): boolean {
  return from.bytesLeft === bytesOf(session, outline)
}

/** Fills an empty session with what follows in the file. Throws RequestError where that is damaged. */
export async function loadSession(
  session: Session,
  { tokens, outline }: SavedSession,
  from: SealedReader,
  onCopied?: OnCopied,
): Promise<void> {
  const total = from.bytesLeft
  await session.load(tokens, outline, {
    name: from.name,
    get bytesLeft() {
      return from.bytesLeft
    },
    read: length => from.read(length),
    async checkSeal() {
      await from.checkSeal()
      onCopied?.(total - from.bytesLeft, total)
    },
  })
}

/** The bytes are not those that were written. */
function damaged(from: SealedReader): never {
  refuse(from, 'is damaged, or was not written to its end: delete it, and save again')
}

function refuse({ name }: SealedReader, what: string): never {
  throw new RequestError(`${name} ${what}`, { param: 'path' })
}
