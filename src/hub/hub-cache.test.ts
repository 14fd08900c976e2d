import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, describe, it } from 'node:test'
import { CheckpointError } from '../base/errors.ts'
import { readEnvironment } from './environment.ts'
import { findPulled, RepositoryCache, repositoryOf, shardsOf } from './hub-cache.ts'

const cache = mkdtempSync(join(tmpdir(), 'tutti-cache-'))
after(() => rmSync(cache, { recursive: true }))
const environment = readEnvironment({ HF_HUB_CACHE: cache })

const names: [name: string, id: string | undefined][] = [
  ['gpt-oss-20b', 'openai/gpt-oss-20b'],
  ['gpt-oss-120b', 'openai/gpt-oss-120b'],
  ['someone/gpt-oss-20b.v2', 'someone/gpt-oss-20b.v2'],
  ['gpt-oss', undefined],
  ['constructor', undefined],
  ['../gpt-oss', undefined],
  ['./models/x', undefined],
  ['a/b/c', undefined],
  ['a/b--c', undefined],
  [`a/${'b'.repeat(96)}`, undefined],
]

/** Makes a snapshot as Python would, with files of no content but the index. */
function makeSnapshot(id: string, files: string[]): string {
  const commit = 'c'.repeat(40)
  const repository = new RepositoryCache(cache, id)
  const index = JSON.stringify({ weight_map: { a: 'model-1.safetensors', b: 'model-2.safetensors' } })
  for (const file of files) {
    const path = repository.snapshot(commit, file)
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, file.endsWith('index.json') ? index : '')
  }
  mkdirSync(join(repository.root, 'refs'))
  writeFileSync(join(repository.root, 'refs/main'), commit)
  return repository.snapshot(commit)
}

const index = 'model.safetensors.index.json'
const snapshots: [what: string, files: string[], isWhole: boolean][] = [
  ['all shards', ['config.json', index, 'model-1.safetensors', 'model-2.safetensors'], true],
  ['a shard too few', ['config.json', index, 'model-1.safetensors'], false],
  ['one file of weights', ['config.json', 'model.safetensors'], true],
  ['no config', ['model.safetensors'], false],
  ['no weights', ['config.json', 'tokenizer.json'], false],
  ['the original layout', ['config.json', 'original/config.json', 'original/model.safetensors'], true],
]

describe('the cache', () => {
  for (const [name, id] of names) it(`takes ${name} for ${id}`, () => assert.equal(repositoryOf(name), id))

  for (const [n, [what, files, isWhole]] of snapshots.entries()) {
    it(`${isWhole ? 'finds' : 'does not find'} a model with ${what}`, () => {
      const snapshot = makeSnapshot(`test/model${n}`, files)
      assert.equal(findPulled(`test/model${n}`, environment), isWhole ? snapshot : undefined)
    })
  }

  it('finds no model where the index is damaged, so that pulling fetches it again', () => {
    const snapshot = makeSnapshot('test/damaged', ['config.json', index, 'model-1.safetensors', 'model-2.safetensors'])
    for (const text of ['{"weight_map"', '{"weight_map": 1}', '[]']) {
      writeFileSync(join(snapshot, index), text)
      assert.equal(findPulled('test/damaged', environment), undefined)
      assert.throws(() => shardsOf(join(snapshot, index)), CheckpointError)
    }
  })

  it('finds nothing where nothing was pulled', () => assert.equal(findPulled('gpt-oss-20b', environment), undefined))
})
