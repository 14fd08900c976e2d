/** tiktoken and the script of the tokenizer goldens, run by a Python that has the packages tiktoken and openai-harmony. */
import assert from 'node:assert/strict'
import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { ranksText } from '../../scripts/build-vocabulary.ts'
import type { Goldens } from '../../src/tokenizer/testing.ts'

const python = process.env.TUTTI_ORACLE_PYTHON

export const skipReason = python
  ? false
  : 'set TUTTI_ORACLE_PYTHON to a Python that has the packages tiktoken and openai-harmony'

/** A folder with the ranks under the names by which openai-harmony and tiktoken look for them. */
function createRanksFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'tutti-ranks-'))
  for (const name of ['o200k_base.tiktoken', 'fb374d419588a4632f3f557e76b4b70aebbca790'])
    writeFileSync(join(folder, name), ranksText())
  return folder
}

function runPython(script: string, args: string[], ranks: string): ChildProcessByStdio<Writable, Readable, null> {
  return spawn(python!, [fileURLToPath(new URL(script, import.meta.url)), ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: {
      ...process.env,
      TIKTOKEN_ENCODINGS_BASE: ranks,
      TIKTOKEN_CACHE_DIR: ranks,
      PYTHONIOENCODING: 'utf-8',
      PYTHONDONTWRITEBYTECODE: '1',
    },
  })
}

/** tiktoken's ids of texts, in batches. */
export async function* tiktokenIds(
  batches: Iterable<readonly string[]>,
): AsyncGenerator<[text: string, ids: number[]]> {
  const ranks = createRanksFolder()
  try {
    const tiktoken = runPython('tokenizer-ids.py', [], ranks)
    const exit = once(tiktoken, 'exit')
    const lines = createInterface({ input: tiktoken.stdout })[Symbol.asyncIterator]()
    for (const texts of batches) {
      tiktoken.stdin.write(texts.map(text => `${escaped(text)}\n`).join(''))
      for (const text of texts) {
        const { value, done } = await lines.next()
        assert.ok(!done, 'tiktoken stopped early')
        yield [text, JSON.parse(value)]
      }
    }
    tiktoken.stdin.end()
    assert.deepEqual(await exit, [0, null])
  } finally {
    rmSync(ranks, { recursive: true })
  }
}

function escaped(text: string): string {
  return JSON.stringify(text).replace(/[^ -~]/g, unit => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

/** Fresh cases in the form of the goldens, with the answers of openai-harmony: four to encode, then one to decode. */
export async function* freshCases(count: number, seed: number): AsyncGenerator<Goldens['encode' | 'decode'][number]> {
  const ranks = createRanksFolder()
  try {
    const script = '../golden/tokenizer/make.py'
    const reference = runPython(script, ['--random', String(count), '--seed', String(seed)], ranks)
    const exit = once(reference, 'exit')
    for await (const line of createInterface({ input: reference.stdout })) yield JSON.parse(line)
    assert.deepEqual(await exit, [0, null], 'the reference stopped early')
  } finally {
    rmSync(ranks, { recursive: true })
  }
}
