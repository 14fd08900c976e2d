/**
 * Derives src/tokenizer/vocabulary.generated.bin from the ranks of o200k_base that the npm package js-tiktoken carries.
 *
 *   node --conditions=tutti-source scripts/build-vocabulary.ts
 */
import { createHash } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { deflateSync } from 'node:zlib'
import o200k from 'js-tiktoken/ranks/o200k_base'
import { packVocabulary } from '../src/tokenizer/vocabulary.ts'

/** Of the lines `<base64 of the token> <rank>\n` in order of rank: the file o200k_base.tiktoken that OpenAI publishes. */
const expectedSha256 = '446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d'
const output = new URL('../src/tokenizer/vocabulary.generated.bin', import.meta.url)

/** The ranks as text, one line `<base64> <rank>` a token, as OpenAI publishes them. Throws if they are not o200k_base. */
export function ranksText(): string {
  const lines: string[] = []
  for (const chunk of o200k.bpe_ranks.split('\n')) {
    const [, first, ...tokens] = chunk.split(' ')
    for (const [index, token] of tokens.entries()) lines.push(`${token} ${Number(first) + index}\n`)
  }
  const text = lines.join('')
  const sha256 = createHash('sha256').update(text).digest('hex')
  if (sha256 !== expectedSha256)
    throw new Error(
      `js-tiktoken's o200k_base has ${lines.length} ranks with sha256 ${sha256}, expected 199998 with ${expectedSha256}: ` +
        'install the version of package-lock.json ("npm ci").',
    )
  return text
}

/** The bytes of all ordinary tokens, in the order of their ids. */
export function rankedTokens(): Uint8Array[] {
  const lines = ranksText().trimEnd().split('\n')
  return lines.map(line => new Uint8Array(Buffer.from(line.slice(0, line.indexOf(' ')), 'base64')))
}

/** Writes the packed and deflated vocabulary; about a second. */
export function buildVocabulary(): void {
  writeFileSync(output, deflateSync(packVocabulary(rankedTokens()), { level: 9 }))
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) buildVocabulary()
