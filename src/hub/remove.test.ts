import assert from 'node:assert/strict'
import {
  copyFileSync,
  existsSync,
  globSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { describe, it } from 'node:test'
import { digest } from '../base/cache-files.node.ts'
import { lockFile } from './file-lock.ts'
import { planRemoval, remove } from './remove.ts'
import { TestHub } from './testing.ts'

const weights = 'model.safetensors'
const python = 'f'.repeat(40)

const plan = (hub: TestHub) => planRemoval(hub.cache, hub.recordFolder)
const removeAll = async (hub: TestHub) => {
  const removal = await plan(hub)
  await remove(removal)
  return removal
}
const all = (folder: string) => globSync('**', { cwd: folder }).filter(name => name !== '.')

/** Another snapshot, as Python makes it, of blobs that are there. */
function addSnapshot(hub: TestHub, paths: string[], commit = python): void {
  for (const path of paths) {
    const at = join(hub.cache.snapshot(commit), path)
    mkdirSync(join(at, '..'), { recursive: true })
    const blob = readdirSync(hub.cache.blobs).find(name =>
      readFileSync(join(hub.cache.blobs, name)).equals(hub.files[path]),
    )
    symlinkSync(`../../blobs/${blob}`, at)
  }
  writeFileSync(join(hub.cache.root, 'refs/old'), commit)
}

/** Every ref leads to a snapshot, and every link to a blob: what Python's tools call a cache without faults. */
function assertSound({ cache }: TestHub): void {
  for (const name of readdirSync(join(cache.root, 'refs'))) {
    assert.ok(existsSync(cache.snapshot(readFileSync(join(cache.root, 'refs', name), 'utf8'))), name)
  }
  for (const path of all(join(cache.root, 'snapshots')))
    assert.ok(existsSync(join(cache.root, 'snapshots', path)), path)
}

describe('removing a model', () => {
  for (const links of [true, false]) {
    it(`leaves nothing of it${links ? '' : ', where there are no links'}`, async () => {
      await using hub = await TestHub.start(links ? {} : { HF_HUB_DISABLE_SYMLINKS: '1' })
      const { bytes } = await hub.pull()
      const { bytes: freed, left } = await removeAll(hub)
      assert.deepEqual([freed, left], [{ model: bytes, unfinished: 0, derived: 0 }, []])
      assert.equal(existsSync(hub.cache.root), false)
      assert.deepEqual(await hub.records.commits(), [])
    })
  }

  it('changes nothing while it is planned', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    const before = all(hub.home)
    await plan(hub)
    assert.deepEqual(all(hub.home), before)
  })

  it('takes both layouts', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    await hub.pull({ layout: 'original' })
    assert.equal((await removeAll(hub)).snapshots[0].files.length, 6)
    assert.equal(existsSync(hub.cache.root), false)
  })

  it('leaves snapshots of others, with the blobs that they link to, and says so', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    addSnapshot(hub, [weights, 'LICENSE'])
    const { left, bytes } = await removeAll(hub)
    assert.match(left[0], /^snapshot ffffffff: not pulled by tutti, .*; hf cache rm f{40} removes all of the snapshot$/)
    assert.match(left[1], /^2 blobs \(0\.4 MB\): files that stay link to them$/)
    assert.equal(bytes.model, hub.files['config.json'].length + hub.files['tokenizer.json'].length)
    assert.equal(readdirSync(hub.cache.blobs).length, 2)
    assert.deepEqual(readdirSync(join(hub.cache.root, 'refs')), ['old'])
    assert.deepEqual(readdirSync(join(hub.cache.root, 'snapshots')), [python])
    assertSound(hub)
  })

  it('leaves files that others put into its snapshot, and the ref that stands for it', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    writeFileSync(hub.at('README.md'), '# read me')
    const { left, snapshots } = await removeAll(hub)
    assert.deepEqual(
      left.map(line => line.slice(0, 35)),
      [`of snapshot ${hub.server.commit.slice(0, 8)} README.md: not`],
    )
    assert.equal(snapshots[0].isWhole, false)
    assert.deepEqual(readdirSync(hub.snapshot), ['README.md'])
    assert.deepEqual(readdirSync(hub.cache.blobs), [])
    assert.equal((await hub.record()).size, 0)
    assertSound(hub)
  })

  it('takes nothing of what Python had downloaded before a pull', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    rmSync(hub.recordFolder, { recursive: true }) // no record is that of another program
    await hub.pull()
    const { snapshots, blobs, left } = await plan(hub)
    assert.deepEqual([snapshots, blobs], [[], []])
    assert.match(left[0], /^snapshot [0-9a-f]{8}: not pulled by tutti, as far as its records say; hf cache rm/)
  })

  it('takes nothing that another program has replaced since', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    const blob = realpathSync(hub.at(weights))
    copyFileSync(blob, `${blob}.copy`)
    renameSync(`${blob}.copy`, blob)
    const { left } = await removeAll(hub)
    assert.match(left[0], /^of snapshot [0-9a-f]{8} model\.safetensors: not pulled by tutti/)
    assert.deepEqual(readdirSync(hub.snapshot), [weights])
    assertSound(hub)
  })

  it('takes unfinished downloads, and leaves those of Python', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    const etag = 'a'.repeat(64)
    const endings = ['tutti.incomplete', 'map.incomplete', 'incomplete', '0123abcd.incomplete']
    for (const ending of endings) writeFileSync(`${hub.cache.blob(etag)}.${ending}`, 'some')
    const { bytes, left } = await removeAll(hub)
    assert.equal(bytes.unfinished, 8)
    assert.deepEqual(readdirSync(hub.cache.blobs), [`${etag}.0123abcd.incomplete`, `${etag}.incomplete`])
    assert.match(left[0], /^2 blobs \(0\.0 MB\): other programs made them.*hf cache prune/)
  })

  it('takes what tutti made of it, and of it alone', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    const folder = join(hub.recordFolder, 'matrices')
    mkdirSync(folder)
    const [own, other] = [`${digest(hub.snapshot)}-1.q8`, `${digest(hub.home)}-1.q8`]
    for (const name of [own, other]) writeFileSync(join(folder, name), '8 bits')
    const { bytes, derived } = await removeAll(hub)
    assert.deepEqual([bytes.derived, derived.map(path => basename(path))], [6, [own]])
    assert.deepEqual(readdirSync(folder), [other])
  })

  it('goes on where it was broken off', async () => {
    await using hub = await TestHub.start()
    const { bytes } = await hub.pull()
    rmSync(join(hub.cache.root, 'refs/main'))
    rmSync(hub.snapshot, { recursive: true })
    assert.equal((await removeAll(hub)).bytes.model, bytes)
    assert.equal(existsSync(hub.cache.root), false)
    assert.deepEqual(await hub.records.commits(), [])
  })

  it('removes nothing while a file of it is downloaded', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    const before = all(hub.cache.root)
    const release = await lockFile(join(hub.cache.locks, `${readdirSync(hub.cache.blobs)[2]}.tutti.lock`))
    await assert.rejects(removeAll(hub), {
      name: 'DeviceError',
      message: `another tutti (process ${process.pid}) downloads openai/gpt-oss-20b now: wait until it is done, or stop it`,
    })
    assert.deepEqual(all(hub.cache.root), before)
    await release()
    await removeAll(hub)
    assert.deepEqual(readdirSync(hub.cache.locks), [])
  })

  it('lets it be pulled again', async () => {
    await using hub = await TestHub.start()
    const { bytes } = await hub.pull()
    await removeAll(hub)
    assert.equal((await hub.pull()).fetchedBytes, bytes)
  })
})
