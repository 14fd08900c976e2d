/** Fresh cases from the script of the Harmony goldens, answered by openai-harmony itself. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts'

/** A Python with the package openai-harmony 0.0.8. */
export const oraclePython = process.env.TUTTI_ORACLE_PYTHON

export const skipReason = oraclePython
  ? false
  : 'set TUTTI_ORACLE_PYTHON to a Python that has the package openai-harmony'

/** `count` cases of one kind, in the form of the goldens; a seed always gives the same ones. */
export async function* freshCases<Case>(
  tokenizer: Tokenizer,
  kind: 'conversation' | 'schema' | 'parse',
  { count, seed }: { count: number; seed: number },
): AsyncGenerator<Case> {
  const folder = mkdtempSync(join(tmpdir(), 'tutti-ranks-'))
  try {
    writeFileSync(join(folder, 'o200k_base.tiktoken'), ranksOf(tokenizer))
    const script = fileURLToPath(new URL('../golden/harmony/make.py', import.meta.url))
    const options = ['--random', String(count), '--seed', String(seed), '--kind', kind]
    const reference = spawn(oraclePython!, [script, ...options], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, TIKTOKEN_ENCODINGS_BASE: folder, PYTHONIOENCODING: 'utf-8', PYTHONDONTWRITEBYTECODE: '1' },
    })
    const exit = once(reference, 'exit')
    for await (const line of createInterface({ input: reference.stdout })) yield JSON.parse(line) as Case
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
