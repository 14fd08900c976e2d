import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { type Import, readImports, violations } from './check-layers.ts'

const manifest = {
  imports: { '#vocabulary': { 'tutti-source': { node: './src/tokenizer/vocabulary.node.ts' }, node: './dist/v.js' } },
  dependencies: { citty: '1', '@clack/prompts': '1' },
}
const used = ['citty', '@clack/prompts'].map(specifier => ({ file: 'src/cli/main.ts', specifier, typeOnly: false }))
const judge = (file: string, specifier: string, typeOnly = false) =>
  violations([...used, { file, specifier, typeOnly }], manifest)

const forbidden: [file: string, specifier: string, says: RegExp][] = [
  ['src/tokenizer/bpe.ts', '../harmony/message.ts', /tokenizer may import nothing \(and base\), not harmony/],
  ['src/kernels/linear/linear.ref.ts', '../../checkpoint/mxfp4.ts', /not checkpoint/],
  ['src/base/errors.ts', '../tokenizer/bpe.ts', /not tokenizer/],
  ['src/engine/session.ts', '../index.ts', /not index/],
  ['src/model/weights.ts', '#vocabulary', /model may import kernels, checkpoint \(and base\), not tokenizer/],
  ['src/model/weights.ts', '#nowhere', /does not list/],
  ['src/grammar/mask.ts', '../harmony/message.ts', /only types of harmony/],
  ['src/engine/session.ts', 'node:fs', /imports node:fs/],
  ['src/engine/session.ts', 'fs', /imports fs/],
  ['src/engine/session.ts', 'citty-extra', /not in "dependencies"/],
  ['src/cli/main.ts', '@clack/core', /imports @clack\/core, which is not in "dependencies"/],
  ['src/cli/main.ts', '../harmony/index.ts', /door src\/harmony\/index.ts/],
  ['src/cli/main.ts', '../kernels/testing.ts', /only tests/],
  ['src/cli/main.ts', '../../scripts/build.ts', /outside src/],
  ['src/cli/main.ts', '../plugins/x.ts', /add plugins to the table/],
  ['src/plugins/x.ts', '../base/errors.ts', /add plugins to the table/],
]
const allowed: [file: string, specifier: string, typeOnly?: boolean][] = [
  ['src/harmony/render.ts', '../tokenizer/bpe.ts'],
  ['src/tokenizer/load.ts', '#vocabulary'],
  ['src/tokenizer/load.ts', './index-file.ts'],
  ['src/grammar/mask.ts', '../harmony/message.ts', true],
  ['src/index.ts', './harmony/index.ts'],
  ['src/checkpoint/source.node.ts', 'node:fs/promises'],
  ['src/platform.node.ts', 'node:os'],
  ['src/cli/main.ts', '@clack/prompts/sub'],
  ['src/cli/main.ts', '../index.ts'],
  ['src/engine/session.test.ts', '../kernels/testing.ts'],
  ['src/tokenizer/bpe.test.ts', 'fast-check'],
]

test('every import against the law is named with its reason', () => {
  for (const [file, specifier, says] of forbidden) {
    const found = judge(file, specifier)
    assert.equal(found.length, 1, `${file} → ${specifier}`)
    assert.match(found[0], says)
  }
})

test('imports within the law pass', () => {
  for (const [file, specifier, typeOnly] of allowed) assert.deepEqual(judge(file, specifier, typeOnly), [])
})

test('a dependency that nothing imports is named', () => {
  assert.deepEqual(violations([used[0]], manifest), [
    'package.json has the dependency @clack/prompts, which nothing in src/ imports',
  ])
})

test('imports are found in every form they can take, and not in comments and strings', t => {
  const root = mkdtempSync(join(tmpdir(), 'tutti-layers-'))
  t.after(() => rmSync(root, { recursive: true }))
  mkdirSync(join(root, 'src'))
  const options = { module: 'nodenext', noEmit: true }
  writeFileSync(join(root, 'tsconfig.json'), JSON.stringify({ include: ['src'], compilerOptions: options }))
  const code = `import type { A } from './type.ts'
    import { type B, c } from "./value.ts"
    import './effect.ts'
    export * from './star.ts'
    export type { D } from './export-type.ts'
    const later = await import('./dynamic.ts')
    let e: import('./import-type.ts').E
    const quote = /['\`]/ // import './comment.ts'
    const text = \`import './text.ts' \${await import('./template.ts')}\``
  writeFileSync(join(root, 'src/all.ts'), code)
  const found = readImports(root).map(({ specifier, typeOnly }: Import) => `${specifier}${typeOnly ? ' type' : ''}`)
  assert.deepEqual(found.sort(), [
    './dynamic.ts',
    './effect.ts',
    './export-type.ts type',
    './import-type.ts type',
    './star.ts',
    './template.ts',
    './type.ts type',
    './value.ts',
  ])
})
