import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { CheckpointError } from '../../src/base/errors.ts'
import { seededRandom } from '../../src/base/random.ts'
import { type HeaderTensor, readHeader } from '../../src/checkpoint/safetensors.ts'
import { type Folder, memoryFolder } from '../../src/checkpoint/source.ts'
import { fileMutator } from '../../src/checkpoint/testing.ts'
import type { Row } from './row.ts'

/** Failures kept as text; more of them say nothing more. */
const maxFailures = 20
/** What the heap may have grown between a tenth of the run and its end: code that was compiled late, no more. */
const maxGrowthBytes = 4 * 2 ** 20

const file = 'src/checkpoint/safetensors.ts'
const json = 'src/base/json.ts'

export const row: Row = {
  row: 2,
  title: 'safetensors fuzz',
  async run({ long, quick, seed }) {
    const n = long ? 10_000_000 : quick ? 20_000 : 1_000_000
    const { stackTraceLimit } = Error
    Error.stackTraceLimit = 0 // most files are refused, and stacks nobody reads would take half of the time
    const nextFile = fileMutator(seededRandom(seed))
    const failures: string[] = []
    let accepted = 0
    let earlyBytes = 0
    for (let i = 0; i < n; i++) {
      if (i === n / 10) earlyBytes = heapBytes()
      const bytes = nextFile()
      const { outcome, problems } = await readMutated(bytes)
      if (outcome === 'accepted') accepted++
      for (const problem of problems) {
        if (failures.length < maxFailures)
          failures.push(`file ${i}, ${Buffer.from(bytes).toString('base64')}: ${problem}`)
      }
    }
    Error.stackTraceLimit = stackTraceLimit
    const growth = heapBytes() - earlyBytes
    if (growth > maxGrowthBytes) failures.push(`the heap grew by ${growth} bytes`)
    // Of these files a fifth is valid: far fewer, or more, and the fuzzer no longer tests what it should.
    if (accepted < n / 20 || accepted > n / 2) failures.push(`${accepted} of ${n} files were accepted`)
    return { n, failures }
  },
  planted: [
    { file, search: ' || length > size - lengthBytes', replace: '', what: 'headers may be longer than the file' },
    { file, search: 'if (size < lengthBytes)', replace: 'if (size < 0)', what: 'files may be shorter than a length' },
    { file, search: 'dataBegin + end !== fileBytes', replace: 'dataBegin + end < 0', what: 'tensors may lie outside' },
    { file, search: '!(error instanceof SyntaxError)', replace: 'error instanceof SyntaxError', what: 'a raw error' },
    { file: json, search: 'if (keys.has(key))', replace: 'if (false)', what: 'a name may be declared twice' },
  ],
}

/** Reads one file as a checkpoint would, and what of it must never happen. */
async function readMutated(bytes: Uint8Array): Promise<{ outcome: 'accepted' | 'refused'; problems: string[] }> {
  const problems: string[] = []
  const folder = watched(memoryFolder({ file: bytes }), bytes.length, problems)
  try {
    const { tensors } = await readHeader(folder, 'file')
    for (const { begin, end } of tensors) await folder.read('file', begin, end)
    checkPlaces(tensors, bytes.length, problems)
    return { outcome: 'accepted', problems }
  } catch (error) {
    if (!(error instanceof CheckpointError)) problems.push(`crashed with ${error}`)
    return { outcome: 'refused', problems }
  }
}

/** The same folder, but every read outside the file is noted. */
function watched(folder: Folder, size: number, problems: string[]): Folder {
  return {
    ...folder,
    read: (name, begin, end) => {
      if (!(0 <= begin && begin <= end && end <= size)) problems.push(`read bytes ${begin} to ${end} of ${size}`)
      return folder.read(name, begin, end)
    },
  }
}

/** What was accepted has tensors of different names, one behind the other up to the end. */
function checkPlaces(tensors: readonly HeaderTensor[], size: number, problems: string[]): void {
  const names = new Set(tensors.map(tensor => tensor.name))
  if (names.size !== tensors.length) problems.push('accepted a repeated name')
  const gap = tensors.findIndex((tensor, i) => i > 0 && tensor.begin !== tensors[i - 1].end)
  if (gap !== -1) problems.push(`accepted tensors that do not follow each other, at ${gap}`)
  const last = tensors.at(-1)
  if (last && last.end !== size) problems.push(`accepted tensors that end at ${last.end} of ${size}`)
}

/** What is alive, garbage not counted. */
function heapBytes(): number {
  setFlagsFromString('--expose-gc')
  runInNewContext('gc')()
  return process.memoryUsage().heapUsed
}
