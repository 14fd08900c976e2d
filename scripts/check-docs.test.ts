import assert from 'node:assert/strict'
import { test } from 'node:test'
import { runNode } from '../test/planted.ts'
import {
  blocksOf,
  problemsOf,
  readDocuments,
  tuttiCalls,
  typeErrors,
  withUserProject,
  writeBlock,
} from './check-docs.ts'

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

test('what is wrong in a document is named', async () => {
  const cases: [markdown: string, says: RegExp][] = [
    ['[there](nowhere.md#part)', /^README.md: the link to nowhere.md leads nowhere$/],
    ['`npx tutti dance`', /there is no command "tutti dance"/],
    ['```sh\necho hi | tutti generate --loudly\n```\n', /"tutti generate" has no option --loudly/],
    ['`npm run dance`', /there is no npm script "dance"/],
    ['<!-- help: tutti chat -->\n```\nold\n```\n', /^README.md:3: this is not what "tutti chat --help" prints/],
  ]
  for (const [markdown, says] of cases) {
    const found = await problemsOf({ file: 'README.md', markdown })
    assert.equal(found.length, 1, markdown)
    assert.match(found[0], says)
  }
  const sound = '[tree](src/index.ts) [web](https://a.b) `tutti chat --raw` `npm test`\n```sh\nnpm run board\n```\n'
  assert.deepEqual(await problemsOf({ file: 'README.md', markdown: sound }), [])
})

test('snippets compile against the package, errors name the line of the document', async () => {
  const blocks = blocksOf('A.md', "\n```ts\nimport { load } from 'tutti'\nconst wrong: number = load\n```\n")
  const errors = await typeErrors(blocks)
  assert.equal(errors.length, 1)
  assert.match(errors[0], /^\S*A\.md-3\.ts\(4,7\): error TS2322/)
})

const blocks = readDocuments().flatMap(({ file, markdown }) => blocksOf(file, markdown))
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
