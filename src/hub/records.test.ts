import assert from 'node:assert/strict'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { gitSha1, sha256 } from '../../test/hub/server.ts'
import { openFolder } from '../checkpoint/source.node.ts'
import { type FileRecord, fingerprintOf, RepositoryRecords } from './records.ts'
import { openChecked } from './records-load.ts'
import { flip, TestHub, touch } from './testing.ts'

const commit = 'c'.repeat(40)
const weights = 'model.safetensors'

async function load(hub: TestHub, path = hub.snapshot, onProgress?: (done: number, total: number) => void) {
  const checkpoint = await openChecked(await openFolder(path), { folder: hub.recordFolder, onProgress })
  await checkpoint.close()
}

/** Bytes that were hashed by a load. */
async function hashedBy(hub: TestHub, path?: string): Promise<number> {
  let hashed = 0
  await load(hub, path, done => (hashed = done))
  return hashed
}

/** The file behind a name, apart from its link. */
const blobOf = (hub: TestHub, path: string) => realpathSync(hub.at(path))

/** A copy in its place, with the same bytes and another inode. */
function replace(path: string): void {
  copyFileSync(path, `${path}.copy`)
  renameSync(`${path}.copy`, path)
}

describe('a pull', () => {
  it('records hash, size, time and inode of each file, in tutti’s own cache', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    const record = await hub.record()
    assert.deepEqual([...record.keys()].sort(), ['LICENSE', 'config.json', weights, 'tokenizer.json'])
    for (const [path, known] of record) {
      const bytes = hub.files[path]
      assert.deepEqual(
        { ...known, verified: '' },
        {
          hash: /safetensors|tokenizer/.test(path) ? sha256(bytes) : gitSha1(bytes),
          ...(await fingerprintOf(hub.at(path))),
          verified: '',
          isPlaced: true,
        },
      )
      assert.ok(Math.abs(Date.now() - Date.parse(known.verified)) < 60_000)
    }
    assert.deepEqual(
      readdirSync(hub.environment.cache).filter(name => !name.startsWith('.')),
      ['models--openai--gpt-oss-20b'],
    )
    assert.deepEqual(readdirSync(hub.cache.root).sort(), ['blobs', 'refs', 'snapshots'])
  })

  it('adds to the record of another layout of the same commit', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    await hub.pull({ layout: 'original' })
    assert.deepEqual([...(await hub.record()).keys()].sort(), Object.keys(hub.files).sort())
  })

  it('hashes nothing that is as it was recorded, and hashes what was touched', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    const checked = async () => {
      let bytes = 0
      const { fetchedBytes } = await hub.pull({ onProgress: ({ checkedBytes }) => (bytes = checkedBytes) })
      assert.equal(fetchedBytes, 0)
      return bytes
    }
    assert.equal(await checked(), 0)
    touch(hub.at(weights))
    assert.equal(await checked(), hub.files[weights].length)
    assert.equal(await checked(), 0)
  })

  it('hashes the files themselves where there are no links only once, too', async () => {
    await using hub = await TestHub.start({ HF_HUB_DISABLE_SYMLINKS: '1' })
    await hub.pull()
    let bytes = 0
    await hub.pull({ onProgress: ({ checkedBytes }) => (bytes = checkedBytes) })
    assert.equal(bytes, 0)
    assert.equal(await hashedBy(hub), 0)
    flip(hub.at(weights))
    await assert.rejects(load(hub), /model\.safetensors no longer have the sha256/)
  })

  it('says that nothing could be recorded', async () => {
    await using hub = await TestHub.start()
    writeFileSync(hub.recordFolder, 'a file where a folder should be')
    const { notice = '' } = await hub.pull()
    assert.match(notice, /^nothing is recorded of the hashes \((EEXIST|ENOTDIR).*set TUTTI_CACHE_DIR to a folder/)
    await load(hub)
  })
})

type Change = (hub: TestHub) => unknown

/** What may have become of a file that a load reads, and what the load does. */
const sound: [what: string, change: Change, hashed: boolean][] = [
  ['as it was recorded', () => {}, false],
  ['of another time', hub => touch(blobOf(hub, weights)), true],
  ['of another inode', hub => replace(blobOf(hub, weights)), true],
]
const damaged: [what: string, change: Change, says: RegExp][] = [
  [
    'shorter',
    hub => truncateSync(blobOf(hub, weights), 1000),
    /model\.safetensors has 1000 bytes, and had 382032 when/,
  ],
  [
    'longer',
    hub => writeFileSync(blobOf(hub, weights), Buffer.concat([hub.files[weights], Buffer.alloc(1)])),
    /has 382033 bytes, and had 382032 when it was downloaded: it is damaged/,
  ],
  [
    'flipped in its header',
    hub => flip(blobOf(hub, weights), { byte: 20 }),
    /the 382032 bytes of .*model\.safetensors no longer have the sha256 [0-9a-f]{64}: it is damaged/,
  ],
  ['flipped in its first tensor', hub => flip(blobOf(hub, weights), { byte: 20_000 }), /no longer have the sha256/],
  ['flipped in its last byte', hub => flip(blobOf(hub, weights), { byte: Infinity }), /no longer have the sha256/],
  ['flipped in the configuration', hub => flip(blobOf(hub, 'config.json'), { byte: 3 }), /no longer have the git sha1/],
  [
    'flipped, in a copy with the old time',
    hub => {
      const path = blobOf(hub, weights)
      replace(path)
      flip(path, { keepTime: true })
    },
    /no longer have the sha256/,
  ],
]

/** Ways to name a model that was pulled. */
const paths: [what: string, of: (hub: TestHub) => string][] = [
  ['its folder', hub => hub.snapshot],
  ['its weights', hub => hub.at(weights)],
  ['its configuration', hub => hub.at('config.json')],
  [
    'a link to its folder',
    hub => {
      const link = join(hub.home, 'my-model')
      if (!existsSync(link)) symlinkSync(hub.snapshot, link)
      return link
    },
  ],
]

describe('a load', () => {
  for (const [what, change, hashed] of sound) {
    it(`takes a file ${what}${hashed ? ', hashes it once, and renews its record' : ' without hashing it'}`, async () => {
      await using hub = await TestHub.start()
      await hub.pull()
      await change(hub)
      assert.equal(await hashedBy(hub), hashed ? hub.files[weights].length : 0)
      assert.equal(await hashedBy(hub), 0)
      assert.equal((await hub.record()).get(weights)?.isPlaced, true)
    })
  }

  for (const [what, change, says] of damaged) {
    it(`refuses a file that is ${what}, each time, until it is pulled again`, async () => {
      await using hub = await TestHub.start()
      await hub.pull()
      await change(hub)
      for (let n = 0; n < 2; n++) {
        await assert.rejects(load(hub), (error: Error) => {
          assert.equal(error.name, 'CheckpointError')
          assert.match(error.message, says)
          assert.match(error.message, /; HF_HUB_CACHE=\S+\/hub tutti pull gpt-oss-20b fetches it again$/)
          return true
        })
      }
      await hub.pull()
      assert.equal(await hashedBy(hub), 0)
    })
  }

  for (const [what, of] of paths) {
    it(`sees damage where a model is named by ${what}`, async () => {
      await using hub = await TestHub.start()
      await hub.pull()
      assert.equal(await hashedBy(hub, of(hub)), 0)
      flip(blobOf(hub, weights), { byte: 20_000 })
      await assert.rejects(load(hub, of(hub)), /no longer have the sha256/)
    })
  }

  it('looks at the layout that it reads', async () => {
    await using hub = await TestHub.start()
    await hub.pull({ layout: 'original' })
    flip(blobOf(hub, `original/${weights}`), { byte: 20_000 })
    const says = /original\/model\.safetensors no longer .* tutti pull gpt-oss-20b --layout=original fetches it again$/
    for (const path of [hub.snapshot, hub.at('original')]) await assert.rejects(load(hub, path), says)
    await hub.pull()
    await load(hub)
    await assert.rejects(load(hub, hub.at('original')), says)
  })

  it('that is stopped while it hashes leaves the record as it was', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    touch(blobOf(hub, weights))
    const before = await hub.record()
    const signal = AbortSignal.abort(new Error('enough'))
    const loading = openChecked(await openFolder(hub.snapshot), { folder: hub.recordFolder, signal })
    await assert.rejects(loading, /^Error: enough$/)
    assert.deepEqual(await hub.record(), before)
  })

  it('renews nothing where it may not write, and hashes again', async t => {
    if (process.getuid?.() === 0) return t.skip('an administrator may write everywhere')
    await using hub = await TestHub.start()
    await hub.pull()
    touch(blobOf(hub, weights))
    const [folder] = readdirSync(join(hub.recordFolder, 'records'))
    chmodSync(join(hub.recordFolder, 'records', folder), 0o500)
    for (let n = 0; n < 2; n++) assert.equal(await hashedBy(hub), hub.files[weights].length)
  })

  it('without a record checks headers and sizes, and notes its use', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    rmSync(hub.recordFolder, { recursive: true })
    touch(blobOf(hub, weights))
    assert.equal(await hashedBy(hub), 0)
    assert.ok(Math.abs(Date.now() - (await hub.records.lastUsed(hub.server.commit))!.getTime()) < 60_000)
    truncateSync(blobOf(hub, weights), 300_000)
    await assert.rejects(load(hub), { name: 'CheckpointError' })
  })

  it('of a folder that lies elsewhere writes nothing', async () => {
    await using hub = await TestHub.start()
    const folder = join(hub.home, 'elsewhere')
    mkdirSync(folder)
    for (const name of ['config.json', weights]) writeFileSync(join(folder, name), hub.files[name])
    await load(hub, folder)
    assert.equal(existsSync(hub.recordFolder), false)
  })
})

const file: FileRecord = {
  hash: 'a'.repeat(40),
  size: 7,
  mtime: '1796010863053892390',
  inode: '18446744073709551615',
  verified: '2026-01-02T03:04:05.678Z',
}
const text = (entry: object, version = 1) => JSON.stringify({ version, files: { a: file, b: entry } })
const damagedRecords: [what: string, text: string, kept: string[]][] = [
  ['that is empty', '', []],
  ['that is cut off', text(file).slice(0, -10), []],
  ['of another version', text(file, 2), []],
  ['that is a list', '[]', []],
  ['with an entry that is none', text([]), ['a']],
  ['with another hash', text({ ...file, hash: 'a'.repeat(41) }), ['a']],
  ['with a size as text', text({ ...file, size: '7' }), ['a']],
  ['with a time that is none', text({ ...file, mtime: 1796010863053 }), ['a']],
  ['with all that it needs', text(file), ['a', 'b']],
]

describe('a record', () => {
  for (const [what, text, kept] of damagedRecords) {
    it(`${what} counts as far as it is right`, async () => {
      await using hub = await TestHub.start()
      await hub.records.update(commit, record => record.set('a', file))
      const [folder] = readdirSync(join(hub.recordFolder, 'records'))
      writeFileSync(join(hub.recordFolder, 'records', folder, `${commit}.json`), text)
      assert.deepEqual([...(await hub.records.read(commit)).keys()], kept)
    })
  }

  it('keeps what it is given, to the last digit', async () => {
    await using hub = await TestHub.start()
    await hub.records.update(commit, record => record.set('__proto__', { ...file, isPlaced: true }).set('b', file))
    assert.deepEqual(
      [...(await hub.records.read(commit))],
      [
        ['__proto__', { ...file, isPlaced: true }],
        ['b', file],
      ],
    )
  })

  it('takes changes of several at once', async () => {
    await using hub = await TestHub.start()
    const names = Array.from({ length: 8 }, (_, n) => `file${n}`)
    await Promise.all(names.map(name => hub.records.update(commit, record => record.set(name, file))))
    assert.deepEqual([...(await hub.records.read(commit)).keys()].sort(), names)
  })

  it('is that of its cache alone', async () => {
    await using hub = await TestHub.start()
    await hub.records.update(commit, record => record.set('a', file))
    const other = new RepositoryRecords(hub.recordFolder, join(hub.home, 'other', 'models--openai--gpt-oss-20b'))
    assert.deepEqual(await other.commits(), [])
  })

  it('of a file that is bad holds for every snapshot that has the same file', async () => {
    await using hub = await TestHub.start()
    const [other, same] = ['d'.repeat(40), { ...file, isPlaced: true }]
    await hub.records.update(other, record => record.set('x', same).set('y', { ...file, inode: '1' }))
    await hub.records.renew(commit, 'a', { ...file, isBad: true })
    assert.deepEqual(
      [...(await hub.records.read(other))],
      [
        ['x', { ...same, isBad: true }],
        ['y', { ...file, inode: '1' }],
      ],
    )
  })
})
