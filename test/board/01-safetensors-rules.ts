import { readFileSync } from 'node:fs'
import { CheckpointError } from '../../src/base/errors.ts'
import { readHeader } from '../../src/checkpoint/safetensors.ts'
import { memoryFolder } from '../../src/checkpoint/source.ts'
import type { Row } from './row.ts'

interface ReferenceTensor {
  name: string
  dtype: string
  shape: number[]
  data: string
}
interface Verdict {
  rule: string
  file: string
  spaces?: number
  reference: 'accept' | 'refuse'
  ours?: 'refuse'
  tensors?: ReferenceTensor[]
}

/** The board asks for as many. */
const minVectors = 60
const file = 'src/checkpoint/safetensors.ts'
const json = 'src/base/json.ts'

export const row: Row = {
  row: 1,
  title: 'safetensors rules',
  async run() {
    const verdicts = readVerdicts()
    const failures = (await Promise.all(verdicts.map(failureOf))).filter(failure => failure !== undefined)
    if (verdicts.length < minVectors) failures.push(`only ${verdicts.length} of ${minVectors} vectors are there`)
    return { n: verdicts.length, failures }
  },
  planted: [
    { file, search: 'entry.begin !== end || entry.end < end', replace: 'entry.begin < end', what: 'holes pass' },
    { file, search: 'dataBegin + end !== fileBytes', replace: 'dataBegin + end > fileBytes', what: 'data may follow' },
    { file, search: 'length > maxHeaderBytes || length', replace: 'length', what: 'no limit of the header' },
    { file, search: 'BigInt(total) % 8n !== 0n', replace: 'false', what: 'numbers may end inside a byte' },
    {
      file,
      search: 'return exact > maxUint64 ? -1 : exact',
      replace: 'return exact',
      what: 'products may be any size',
    },
    { file, search: 'fatal: true, ignoreBOM: true', replace: 'ignoreBOM: true', what: 'invalid UTF-8 is repaired' },
    { file, search: 'fatal: true, ignoreBOM: true', replace: 'fatal: true', what: 'a byte order mark is dropped' },
    { file, search: 'json.end()', replace: 'json.peek()', what: 'text may follow the object' },
    { file: json, search: 'if (keys.has(key))', replace: 'if (false)', what: 'repeated keys pass' },
    { file: json, search: 'low < 0xdc00 || low > 0xdfff', replace: 'low > 0xdfff', what: 'half surrogate pairs pass' },
    { file: json, search: '++this.#depth > maxJsonDepth', replace: '++this.#depth < 0', what: 'any depth' },
    {
      file: json,
      search: '/^\\d+$/.test(lexeme) ? integer(lexeme) : -1',
      replace: 'Number(lexeme)',
      what: 'minus zero, points and exponents pass',
    },
  ],
}

function readVerdicts(): Verdict[] {
  const path = new URL('../golden/safetensors/verdicts.json', import.meta.url)
  return JSON.parse(readFileSync(path, 'utf8')).verdicts
}

/** How our verdict differs from the expected one; undefined if it does not. */
async function failureOf({
  rule,
  file,
  spaces = 0,
  reference,
  ours,
  tensors = [],
}: Verdict): Promise<string | undefined> {
  const folder = memoryFolder({ file: withSpaces(Buffer.from(file, 'base64'), spaces) })
  const expected = ours ?? reference
  try {
    const header = await readHeader(folder, 'file')
    if (expected === 'refuse') return `${rule}: accepted`
    const read = await Promise.all(
      header.tensors.map(async ({ name, dataType, shape, begin, end }) => {
        const data = Buffer.from(await folder.read('file', begin, end)).toString('hex')
        return { name, dtype: dataType, shape, data }
      }),
    )
    read.sort((a, b) => (a.name < b.name ? -1 : 1))
    return JSON.stringify(read) === JSON.stringify(tensors) ? undefined : `${rule}: read ${JSON.stringify(read)}`
  } catch (error) {
    if (!(error instanceof CheckpointError)) return `${rule}: crashed with ${error}`
    return expected === 'refuse' ? undefined : `${rule}: refused with ${error.message}`
  }
}

/** The file with spaces behind its header, whose length already counts them. */
function withSpaces(file: Buffer, spaces: number): Uint8Array {
  if (spaces === 0) return file
  const headerEnd = 8 + Number(file.readBigUInt64LE()) - spaces
  return Buffer.concat([file.subarray(0, headerEnd), Buffer.alloc(spaces, ' '), file.subarray(headerEnd)])
}
