import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { CheckpointError } from '../../src/base/errors.ts'
import { seededRandom } from '../../src/base/random.ts'
import { readHeader } from '../../src/checkpoint/safetensors.ts'
import { memoryFolder } from '../../src/checkpoint/source.ts'
import { fileMutator } from '../../src/checkpoint/testing.ts'

/** A Python with the package safetensors. */
const python = process.env.TUTTI_ORACLE_PYTHON
const count = Number(process.env.TUTTI_ORACLE_COUNT ?? 1_000_000)
const seed = Number(process.env.TUTTI_ORACLE_SEED ?? 1)

type Tensors = [name: string, dataType: string, shape: number[], byteLength: number][]

test(`the verdict on ${count} damaged files is the reference's, but for repeated keys`, {
  skip: python ? false : 'set TUTTI_ORACLE_PYTHON to a Python that has the package safetensors',
}, async () => {
  const nextFile = fileMutator(seededRandom(seed))
  const script = fileURLToPath(new URL('safetensors-verdicts.py', import.meta.url))
  const oracle = spawn(python!, [script], { stdio: ['pipe', 'pipe', 'inherit'] })
  const lines = createInterface({ input: oracle.stdout })[Symbol.asyncIterator]()
  const batch = 500
  let accepted = 0
  let stricter = 0
  for (let done = 0; done < count; done += batch) {
    const files = Array.from({ length: batch }, () => nextFile())
    oracle.stdin.write(files.map(file => `${Buffer.from(file).toString('base64')}\n`).join(''))
    for (const file of files) {
      const line = (await lines.next()).value as string
      const theirs: Tensors | string = JSON.parse(line)
      const ours = await verdictOf(file)
      if (typeof ours === 'string' && typeof theirs !== 'string' && ours.includes('is repeated')) stricter++
      else compare(file, ours, theirs)
      if (typeof ours !== 'string') accepted++
    }
  }
  oracle.stdin.end()
  assert.ok(accepted > count / 20 && stricter > 0, `only ${accepted} accepted, ${stricter} refused for a repeated key`)
})

async function verdictOf(file: Uint8Array): Promise<Tensors | string> {
  try {
    const { tensors } = await readHeader(memoryFolder({ file }), 'file')
    return tensors.map(({ name, dataType, shape, begin, end }) => [name, dataType, [...shape], end - begin])
  } catch (error) {
    if (error instanceof CheckpointError) return error.message
    throw error
  }
}

function compare(file: Uint8Array, ours: Tensors | string, theirs: Tensors | string): void {
  const what = () =>
    `${Buffer.from(file).toString('base64')}\nours: ${JSON.stringify(ours)}\ntheirs: ${JSON.stringify(theirs)}`
  if (typeof ours === 'string' || typeof theirs === 'string') {
    assert.equal(typeof ours, typeof theirs, what())
    assert.ok(!theirs.toString().startsWith('crashed'), what())
    return
  }
  const sorted = (tensors: Tensors) => tensors.map(tensor => JSON.stringify(tensor)).sort()
  assert.deepEqual(sorted(ours), sorted(theirs), what())
}
