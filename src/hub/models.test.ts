import assert from 'node:assert/strict'
import { mkdirSync, realpathSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, it } from 'node:test'
import { gitSha1, sha256 } from '../../test/hub/server.ts'
import { openFolder } from '../checkpoint/source.node.ts'
import { type CachedModel, findModels, listModels, type Verification, verifyModels } from './models.ts'
import type { PullProgress } from './progress.ts'
import { openChecked } from './records-load.ts'
import { flip, TestHub, touch } from './testing.ts'

const weights = 'model.safetensors'
const verify = async (hub: TestHub, more: { signal?: AbortSignal } = {}): Promise<Verification> => {
  const [found] = await verifyModels(await listModels(hub), { ...hub, ...more })
  return found
}
const blobOf = (hub: TestHub, path: string) => realpathSync(hub.at(path))

/** Makes a snapshot as Python does, of other files than the hub's if they are given. */
function pythonDownload(
  hub: TestHub,
  files: Record<string, Buffer> = hub.files,
  { id = hub.cache.root, ref = 'main' } = {},
) {
  const commit = hub.server.commit
  for (const folder of ['blobs', 'refs']) mkdirSync(join(id, folder), { recursive: true })
  for (const [path, bytes] of Object.entries(files)) {
    const etag = path.endsWith('.safetensors') ? sha256(bytes) : gitSha1(bytes)
    const at = join(id, 'snapshots', commit, path)
    mkdirSync(dirname(at), { recursive: true })
    writeFileSync(join(id, 'blobs', etag), bytes)
    symlinkSync(`${'../'.repeat(path.split('/').length + 1)}blobs/${etag}`, at)
  }
  writeFileSync(join(id, 'refs', ref), commit)
}

describe('the list of models', () => {
  it('tells all of one that was pulled', async () => {
    await using hub = await TestHub.start()
    const { path, bytes } = await hub.pull()
    const [model, ...others] = await listModels(hub)
    assert.deepEqual(others, [])
    const { verified, ...rest } = model
    assert.ok(Math.abs(Date.now() - Date.parse(verified!)) < 60_000)
    assert.deepEqual(rest, {
      ...{ name: 'gpt-oss-20b', id: 'openai/gpt-oss-20b', path, commit: hub.server.commit, bytes },
      ...{ revisions: ['main'], layouts: ['root'], damaged: [], isPulled: true },
    } satisfies CachedModel)
  })

  it('has what Python downloaded, with both layouts, verified never', async () => {
    await using hub = await TestHub.start()
    pythonDownload(hub)
    const [model] = await listModels(hub)
    assert.deepEqual(model.layouts, ['root', 'original'])
    assert.equal(model.isPulled, false)
    assert.equal(model.verified, undefined)
  })

  it('knows when a model was loaded', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    assert.equal((await listModels(hub))[0].lastUsed, undefined)
    const checkpoint = await openChecked(await openFolder(hub.snapshot), { folder: hub.recordFolder })
    await checkpoint.close()
    assert.ok(Math.abs(Date.now() - Date.parse((await listModels(hub))[0].lastUsed!)) < 60_000)
  })

  it('has no models of other architectures, and no folders of other kinds', async () => {
    await using hub = await TestHub.start()
    const config = Buffer.from(JSON.stringify({ model_type: 'llama' }))
    const other = join(hub.environment.cache, 'models--someone--llama')
    pythonDownload(hub, { 'config.json': config, [weights]: hub.files[weights] }, { id: other })
    pythonDownload(hub, hub.files, { id: join(hub.environment.cache, 'datasets--someone--else') })
    writeFileSync(join(hub.environment.cache, 'version.txt'), '1')
    assert.deepEqual(await listModels(hub), [])
    pythonDownload(hub, hub.files, { id: join(hub.environment.cache, 'models--someone--fine-tuned'), ref: 'v1' })
    const [model] = await listModels(hub)
    assert.deepEqual([model.name, model.revisions], ['someone/fine-tuned', ['v1']])
  })

  it('has what an interrupted pull left', async () => {
    await using hub = await TestHub.start()
    const controller = new AbortController()
    hub.server.fault = (_, { at, path }) => at === 'link' && path === weights && controller.abort()
    await assert.rejects(hub.pull({ signal: controller.signal }))
    mkdirSync(hub.cache.blobs, { recursive: true })
    writeFileSync(`${hub.cache.blob('a'.repeat(64))}.tutti.incomplete`, '')
    const [model] = await listModels(hub)
    assert.deepEqual([model.name, model.layouts, model.commit], ['gpt-oss-20b', [], undefined])
    assert.deepEqual((await verify(hub)).bad, [])
  })

  it('is empty where there is no cache', async () => {
    await using hub = await TestHub.start()
    assert.deepEqual(await listModels(hub), [])
  })

  it('is searched by name, by repository and by folder', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    const models = await listModels(hub)
    for (const name of ['gpt-oss-20b', 'openai/gpt-oss-20b', hub.snapshot])
      assert.equal(findModels(models, name).length, 1)
    for (const name of ['gpt-oss-120b', hub.home, 'openai']) assert.equal(findModels(models, name).length, 0)
  })
})

/** What may be wrong with a file, whether or not its time tells. */
const damages: [what: string, path: string, change: (hub: TestHub) => unknown, problem: RegExp][] = [
  [
    'a flip in a header',
    weights,
    hub => flip(blobOf(hub, weights), { byte: 20, keepTime: true }),
    /382032 bytes .*sha256/,
  ],
  ['a flip in a tensor', weights, hub => flip(blobOf(hub, weights), { byte: 2e5, keepTime: true }), /382032 bytes/],
  [
    'a flip in the last byte',
    weights,
    hub => flip(blobOf(hub, weights), { byte: 1e9, keepTime: true }),
    /382032 bytes/,
  ],
  [
    'a flip in a small file',
    'LICENSE',
    hub => flip(blobOf(hub, 'LICENSE'), { keepTime: true }),
    /6 bytes .* git sha1 /,
  ],
  ['a cut file', weights, hub => truncateSync(blobOf(hub, weights), 9), /^has 9 bytes, expected 382032$/],
  ['a blob that is gone', weights, hub => rmSync(blobOf(hub, weights)), /^is gone: its link leads to no blob$/],
  ['a link that is gone', weights, hub => rmSync(hub.at(weights)), /^is gone$/],
]

describe('verifying', () => {
  for (const [what, path, change, problem] of damages) {
    it(`finds ${what}, and the next pull mends it`, async () => {
      await using hub = await TestHub.start()
      await hub.pull()
      for (const name of [weights, 'LICENSE']) touch(hub.at(name))
      assert.deepEqual((await verify(hub)).bad, [])
      await change(hub)
      const { bad, unknown } = await verify(hub)
      assert.deepEqual([bad.map(file => file.path), unknown], [[path], []])
      assert.match(bad[0].problem, problem)
      assert.match(bad[0].cure, /tutti pull gpt-oss-20b$/)
      await hub.pull()
      assert.deepEqual((await verify(hub)).bad, [])
      assert.deepEqual((await listModels(hub))[0].damaged, [])
    })
  }

  it('notes damage that no time tells, so that loading refuses it from then on', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    touch(hub.at(weights))
    await verify(hub)
    flip(blobOf(hub, weights), { byte: 2e5, keepTime: true })
    const load = async () => (await openChecked(await openFolder(hub.snapshot), { folder: hub.recordFolder })).close()
    await load()
    await verify(hub)
    await assert.rejects(load(), /no longer have the sha256/)
    assert.deepEqual((await listModels(hub))[0].damaged, [weights])
  })

  it('compares what Python downloaded with the names of its blobs, and records it', async () => {
    await using hub = await TestHub.start()
    pythonDownload(hub)
    flip(blobOf(hub, `original/${weights}`))
    const { bad, numFiles } = await verify(hub)
    assert.equal(numFiles, 6)
    assert.deepEqual(
      bad.map(({ path, cure }) => [path, /tutti pull.*/.exec(cure)?.[0]]),
      [[`original/${weights}`, 'tutti pull gpt-oss-20b --layout=original']],
    )
    const record = await hub.record()
    assert.equal(record.size, 6)
    assert.ok([...record.values()].every(({ isPlaced }) => !isPlaced))
    assert.ok((await listModels(hub))[0].verified)
  })

  it('says of what nobody has a hash that it cannot tell', async () => {
    await using hub = await TestHub.start({ HF_HUB_DISABLE_SYMLINKS: '1' })
    await hub.pull()
    assert.deepEqual((await verify(hub)).unknown, [])
    rmSync(hub.recordFolder, { recursive: true })
    assert.deepEqual((await verify(hub)).unknown, ['config.json', weights])
  })

  it('tells how far it is, up to all bytes', async () => {
    await using hub = await TestHub.start()
    const { bytes } = await hub.pull()
    const told: PullProgress[] = []
    await verifyModels(await listModels(hub), { ...hub, onProgress: progress => told.push(progress) })
    assert.deepEqual(
      [told.at(-1)?.checkedBytes, told.at(-1)?.totalBytes, told.at(-1)?.step],
      [bytes, bytes, 'checking'],
    )
  })

  it('stops where its signal says so', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    await assert.rejects(verify(hub, { signal: AbortSignal.abort(new Error('enough')) }), /^Error: enough$/)
  })
})
