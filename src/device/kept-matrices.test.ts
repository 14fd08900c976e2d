import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { openFolder } from '../checkpoint/source.node.ts'
import { Session } from '../engine/session.ts'
import { openModel } from '../open-engine.ts'
import { CpuDevice } from './cpu.node.ts'
import { type KeepOptions, q8Bytes } from './kept-matrices.node.ts'
import { loadNative, type Native } from './native.node.ts'

const nano = fileURLToPath(new URL('../../models/nano', import.meta.url))
const loaded = loadNative()
const skip = typeof loaded === 'string' ? loaded : false
const native = loaded as Native
const root = mkdtempSync(join(tmpdir(), 'tutti-kept-'))
after(() => rmSync(root, { recursive: true, force: true }))

let numFolders = 0
const newFolder = () => join(root, `${numFolders++}`)

/** A copy of nano that may be changed. */
function newModel(): string {
  const path = newFolder()
  mkdirSync(path)
  for (const name of ['config.json', 'model.safetensors']) {
    cpSync(join(nano, name), join(path, name), { preserveTimestamps: true })
  }
  return path
}

const filesIn = (folder: string): string[] => {
  const inner = join(folder, 'matrices')
  return existsSync(inner) ? readdirSync(inner).map(name => join(inner, name)) : []
}

interface Seen {
  kept: string | undefined
  plan: { weights: number; mapped: number }
  /** Matrices that were rounded. */
  numRounded: number
  logits: Float32Array
}

/** Loads a model, and runs some tokens. Nano is too small for its matrices to be kept, unless it is said otherwise. */
async function use(path: string, keep?: KeepOptions, changed: Partial<Native> = {}): Promise<Seen> {
  let numRounded = -1 // of a few numbers, to see what the kernels make of them
  const quantize: Native['quantize'] = (...args) => {
    numRounded++
    return native.quantize(...args)
  }
  const options = keep && { keep: { leastBytes: 0, spareBytes: 0, ...keep } }
  const device = new CpuDevice({ ...native, quantize, ...changed }, options)
  const folder = await openFolder(path)
  const { model, kept, plan } = await openModel({ folder, device, contextLength: 64, availableMemory: 2 ** 40 })
  try {
    const session = new Session(model, { contextLength: 64, maxChunk: 16 })
    await session.sync([1, 2, 3, 4, 5])
    await device.settled()
    return { kept, plan, numRounded, logits: session.logits! }
  } finally {
    model.close()
  }
}

const isMade = ({ kept, numRounded }: Seen) => /are kept in .*\.q8$/.test(kept ?? '') && numRounded > 1
const isFound = ({ kept, numRounded }: Seen) => /are read from .*\.q8$/.test(kept ?? '') && numRounded === 0

describe('8-bit matrices on disk', { skip }, () => {
  test('are made once, and used where they are mapped from then on', async () => {
    const folder = newFolder()
    const without = await use(nano)
    const first = await use(nano, { folder })
    const [file] = filesIn(folder)
    const { ino } = statSync(file)
    const second = await use(nano, { folder })
    assert.ok(isMade(first), first.kept)
    assert.ok(isFound(second), second.kept)
    assert.deepEqual(first.logits, without.logits)
    assert.deepEqual(second.logits, without.logits)
    assert.equal(without.kept, undefined)
    assert.deepEqual(first.plan, without.plan)
    assert.ok(second.plan.weights < first.plan.weights)
    assert.ok(second.plan.mapped > first.plan.mapped)
    assert.deepEqual(filesIn(folder), [file])
    assert.equal(statSync(file).ino, ino)
  })

  test('are not kept for a small model, nor where they stay exact', async () => {
    const folder = newFolder()
    assert.equal((await use(nano, { folder, leastBytes: undefined })).kept, undefined)
    const device = new CpuDevice(native, { precision: 'exact', keep: { folder, leastBytes: 0 } })
    const opened = await openModel({ folder: await openFolder(nano), device, availableMemory: 2 ** 40 })
    assert.equal(opened.kept, undefined)
    opened.model.close()
    assert.deepEqual(filesIn(folder), [])
  })

  test('belong to a checkpoint wherever it lies', async () => {
    const folder = newFolder()
    const model = newModel()
    assert.ok(isMade(await use(model, { folder })))
    const moved = newFolder()
    renameSync(model, moved)
    assert.ok(isFound(await use(moved, { folder })))
    assert.ok(isFound(await use(newModel(), { folder })))
  })

  const changes: [name: string, change: (model: string) => void][] = [
    ['was written again', model => utimesSync(join(model, 'model.safetensors'), 1, 1)],
    [
      'has other bytes in a matrix, at the same time and size',
      model => {
        const path = join(model, 'model.safetensors')
        const { atime, mtime } = statSync(path)
        const bytes = readFileSync(path)
        const length = Number(bytes.readBigUInt64LE(0))
        const header = JSON.parse(bytes.toString('utf8', 8, 8 + length))
        const [begin, end] = header['block.0.attn.qkv.weight'].data_offsets.map((at: number) => at + 8 + length)
        for (let at = begin + 1; at < end; at += 2) bytes[at] ^= 0x80 // each number's sign
        writeFileSync(path, bytes)
        utimesSync(path, atime, mtime)
      },
    ],
  ]
  for (const [name, change] of changes) {
    test(`are made again, and the stale ones removed, where the checkpoint ${name}`, async () => {
      const folder = newFolder()
      const model = newModel()
      const before = await use(model, { folder })
      const [stale] = filesIn(folder)
      change(model)
      const without = await use(model)
      const changed = await use(model, { folder })
      assert.ok(isMade(changed), changed.kept)
      assert.deepEqual(changed.logits, without.logits)
      const files = filesIn(folder)
      assert.equal(files.length, 1)
      assert.notEqual(files[0], stale)
      assert.ok(isMade(before) && isFound(await use(model, { folder })))
    })
  }

  const damages: [name: string, damage: (file: string) => void][] = [
    ['cut', file => truncateSync(file, statSync(file).size - 1)],
    ['empty', file => truncateSync(file, 0)],
    ['longer', file => writeFileSync(file, Buffer.concat([readFileSync(file), Buffer.alloc(1)]))],
    ['of another kind', file => writeFileSync(file, Buffer.alloc(statSync(file).size, 1))],
  ]
  for (const [name, damage] of damages) {
    test(`a file that is ${name} is not used, and replaced`, async () => {
      const folder = newFolder()
      const first = await use(nano, { folder })
      const [file] = filesIn(folder)
      damage(file)
      const second = await use(nano, { folder })
      assert.ok(second.numRounded > 1, second.kept)
      assert.deepEqual(second.logits, first.logits)
      assert.ok(isFound(await use(nano, { folder })))
      assert.equal(filesIn(folder).length, 1)
    })
  }

  test('a page that was lost within a file is noticed', async () => {
    const folder = newFolder()
    const first = await use(nano, { folder })
    const [file] = filesIn(folder)
    const bytes = readFileSync(file)
    bytes.fill(0, bytes.length >> 1, (bytes.length >> 1) + 4096)
    writeFileSync(file, bytes)
    const second = await use(nano, { folder })
    assert.ok(second.numRounded > 0)
    assert.deepEqual(second.logits, first.logits)
    assert.deepEqual(filesIn(folder), []) // the next load makes it
    assert.ok(isMade(await use(nano, { folder })))
    assert.ok(isFound(await use(nano, { folder })))
  })

  test('what other kernels made is not used', async () => {
    const folder = newFolder()
    await use(nano, { folder })
    // As if these rounded otherwise: one code of the few numbers that they are tried with differs.
    const readCodes: Native['readCodes'] = (device, matrix, begin, into) => {
      native.readCodes(device, matrix, begin, into)
      if (into.length === q8Bytes([33, 96])) into[100] ^= 1
    }
    const other = await use(nano, { folder }, { readCodes })
    assert.ok(isMade(other), other.kept)
  })

  test('loads at the same time do not disturb each other', async () => {
    const folder = newFolder()
    const seen = await Promise.all([1, 2, 3, 4].map(() => use(nano, { folder })))
    for (const { logits } of seen) assert.deepEqual(logits, seen[0].logits)
    assert.equal(filesIn(folder).length, 1)
    assert.ok(isFound(await use(nano, { folder })))
  })

  test('a folder that cannot be written or has no room is told of, and is no error', async () => {
    const file = newFolder()
    writeFileSync(file, '')
    const nowhere = await use(nano, { folder: file })
    assert.match(nowhere.kept!, /^8-bit matrices are not kept: .*(ENOTDIR|EEXIST)/)
    const full = await use(nano, { folder: newFolder(), spareBytes: 2 ** 60 })
    assert.match(full.kept!, /^8-bit matrices are not kept: .* has \d+ MiB free, and \d+ MiB are wanted$/)
    assert.deepEqual(full.logits, nowhere.logits)
  })

  test('a read-only folder is read', {
    skip: process.getuid?.() === 0 ? 'root may write anywhere' : false,
  }, async () => {
    const folder = newFolder()
    await use(nano, { folder })
    chmodSync(join(folder, 'matrices'), 0o500)
    assert.ok(isFound(await use(nano, { folder })))
    assert.match((await use(newModel(), { folder })).kept!, /EACCES/)
    chmodSync(join(folder, 'matrices'), 0o700)
  })

  test('a disk that becomes full leaves nothing behind, and the model runs', async () => {
    const folder = newFolder()
    let numPieces = 0
    const readCodes: Native['readCodes'] = (...args) => {
      if (++numPieces === 3) throw new Error('ENOSPC')
      native.readCodes(...args)
    }
    const seen = await use(nano, { folder }, { readCodes })
    assert.deepEqual(seen.logits, (await use(nano)).logits)
    assert.deepEqual(filesIn(folder), [])
  })

  test('a device that is closed while matrices are written leaves nothing behind', async () => {
    const folder = newFolder()
    const device = new CpuDevice(native, { keep: { folder, leastBytes: 0, spareBytes: 0 } })
    const opened = await openModel({ folder: await openFolder(nano), device, availableMemory: 2 ** 40 })
    opened.model.close()
    await device.settled()
    assert.deepEqual(
      filesIn(folder).filter(name => !name.endsWith('.q8')),
      [],
    )
    assert.ok(isMade(await use(nano, { folder })) || filesIn(folder).length === 1)
  })

  test('what a process that was killed left behind is removed by the next one that writes', async () => {
    const folder = newFolder()
    mkdirSync(join(folder, 'matrices'), { recursive: true })
    const sleeper = spawn(process.execPath, ['-e', 'setTimeout(() => {}, 60_000)'])
    const dead = spawnSync(process.execPath, ['-e', '']).pid
    const partial = (pid: number) => join(folder, 'matrices', `.${pid}-0123abcd.partial`)
    for (const pid of [dead, sleeper.pid!]) writeFileSync(partial(pid), 'half')
    const other = join(folder, 'matrices', 'notes.txt')
    writeFileSync(other, 'not ours')
    await use(nano, { folder })
    sleeper.kill()
    await once(sleeper, 'exit')
    assert.deepEqual(
      [existsSync(partial(dead)), existsSync(partial(sleeper.pid!)), existsSync(other)],
      [false, true, true],
    )
  })

  test('what nobody has used for a month is removed by the next one that writes', async () => {
    const folder = newFolder()
    await use(newModel(), { folder })
    const [old] = filesIn(folder)
    const longAgo = Date.now() / 1000 - 31 * 24 * 3600
    utimesSync(old, longAgo, longAgo)
    await use(newModel(), { folder }) // a copy: it uses the same
    assert.ok(existsSync(old) && Date.now() - statSync(old).mtimeMs < 3600e3)
    utimesSync(old, longAgo, longAgo)
    const model = newModel()
    utimesSync(join(model, 'model.safetensors'), 1, 1)
    await use(model, { folder })
    await sleep(1)
    assert.ok(!existsSync(old))
    assert.equal(filesIn(folder).length, 1)
  })
})
