import assert from 'node:assert/strict'
import { test } from 'node:test'
import { runNode } from '../test/planted.ts'
import { blocksOf, readDocuments, tuttiCalls, withUserProject, writeBlock } from './check-docs.ts'

test('fenced blocks are found with their line, language and marker', () => {
  const markdown =
    '# A\n<!-- run -->\n```ts\nlet a = 1\nlet b\n```\ntext\n\n```\nplain\n```\n<!-- far -->\ntext\n```sh\nls\n```\n'
  assert.deepEqual(blocksOf('A.md', markdown), [
    { file: 'A.md', line: 4, language: 'ts', marker: 'run', text: 'let a = 1\nlet b\n' },
    { file: 'A.md', line: 10, language: '', marker: '', text: 'plain\n' },
    { file: 'A.md', line: 15, language: 'sh', marker: '', text: 'ls\n' },
  ])
})

test('calls of tutti are found in shell text with their options', () => {
  const cases: [shell: string, calls: string[]][] = [
    ['npx tutti chat --raw  # tutti nothing', ['chat --raw']],
    ['$ echo tutti no | tutti generate --json --max-tokens=5 | jq .', ['generate --json --max-tokens']],
    ['tutti render \\\n  --model x && tutti tokens', ['render --model', 'tokens']],
    ['npm i tutti && cd tutti', []],
  ]
  for (const [shell, calls] of cases) {
    assert.deepEqual(
      tuttiCalls(shell).map(({ command, options }) => [command, ...options].join(' ')),
      calls,
    )
  }
})

const blocks = readDocuments().flatMap(document => document.blocks)
for (const [index, block] of blocks.entries()) {
  if (block.marker !== 'run') continue
  test(`the snippet of ${block.file} at line ${block.line} runs and ends by itself`, async () => {
    const { code, stdout, stderr } = await withUserProject(folder => {
      return runNode(folder, [writeBlock(folder, block)], { timeoutMs: 120_000 })
    })
    assert.equal(code, 0, stderr)
    assert.notEqual(stdout, '')
    const next = blocks[index + 1]
    if (next?.marker === 'output' && next.file === block.file) assert.equal(stdout.trim(), next.text.trim())
  })
}
