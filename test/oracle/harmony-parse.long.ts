import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { loadTokenizer } from '../../src/tokenizer/load.ts'
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts'
import { differenceOf, type ParseCase, readOutcome, readStates, withoutWording } from './harmony-parse-cases.ts'

/** A Python with the package openai-harmony 0.0.8. */
const python = process.env.TUTTI_ORACLE_PYTHON
const count = Number(process.env.TUTTI_ORACLE_COUNT ?? 50_000)
const seed = Number(process.env.TUTTI_ORACLE_SEED ?? 1)

test(`${count} fresh token sequences are read as openai-harmony reads them, strict and lenient, state by state`, {
  skip: python ? false : 'set TUTTI_ORACLE_PYTHON to a Python that has the package openai-harmony',
}, async () => {
  const tokenizer = await loadTokenizer()
  const numChecked = { sequences: 0, streamed: 0, refused: 0 }
  for await (const case_ of freshCases(tokenizer)) {
    compare(tokenizer, case_)
    numChecked.sequences++
    if (case_.stream !== undefined) numChecked.streamed++
    if (!('messages' in case_.strict)) numChecked.refused++
  }
  assert.equal(numChecked.sequences, count)
  assert.ok(numChecked.streamed > count / 10 && numChecked.refused > count / 10, JSON.stringify(numChecked))
})

/** Cases that the script of the golden files draws and the reference answers. */
async function* freshCases(tokenizer: Tokenizer): AsyncGenerator<ParseCase> {
  const folder = mkdtempSync(join(tmpdir(), 'tutti-ranks-'))
  try {
    writeFileSync(join(folder, 'o200k_base.tiktoken'), ranksOf(tokenizer))
    const script = fileURLToPath(new URL('../golden/harmony/make.py', import.meta.url))
    const options = ['--random', String(count), '--seed', String(seed), '--kind', 'parse']
    const reference = spawn(python!, [script, ...options], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, TIKTOKEN_ENCODINGS_BASE: folder, PYTHONIOENCODING: 'utf-8', PYTHONDONTWRITEBYTECODE: '1' },
    })
    const exit = once(reference, 'exit')
    for await (const line of createInterface({ input: reference.stdout })) yield JSON.parse(line)
    assert.deepEqual(await exit, [0, null], 'the reference stopped early')
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** The ordinary tokens in tiktoken's form: bytes in base64, then the rank. */
function ranksOf(tokenizer: Tokenizer): string {
  const lines: string[] = []
  for (let id = 0; !tokenizer.isSpecial(id); id++) {
    lines.push(`${Buffer.from(tokenizer.tokenBytes(id)!).toString('base64')} ${id}\n`)
  }
  return lines.join('')
}

function compare(tokenizer: Tokenizer, case_: ParseCase): void {
  const { name, ids, role, strict, lenient, stream, lenientStream } = case_
  const ofLenient = lenient === 'same' ? strict : lenient
  assert.deepEqual(readOutcome(tokenizer, ids, role, 'strict'), withoutWording(strict), `${name}, strict`)
  assert.deepEqual(readOutcome(tokenizer, ids, role, 'lenient'), withoutWording(ofLenient), `${name}, lenient`)
  differenceOf(tokenizer, case_)
  if (stream === undefined) return
  assert.deepEqual(readStates(tokenizer, ids, role, 'strict'), stream, `${name}, strict, streamed`)
  assert.deepEqual(readStates(tokenizer, ids, role, 'lenient'), lenientStream ?? stream, `${name}, lenient, streamed`)
}
