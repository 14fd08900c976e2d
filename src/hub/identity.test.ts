import assert from 'node:assert/strict'
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { Checkpoint, StoredTensor } from '../checkpoint/checkpoint.ts'
import { openFolder } from '../checkpoint/source.node.ts'
import { readConfig } from '../model/config.ts'
import { identityOf } from './identity.ts'
import { openChecked } from './records-load.ts'
import { flip, TestHub } from './testing.ts'

const folder = mkdtempSync(join(tmpdir(), 'tutti-identity-'))
after(() => rmSync(folder, { recursive: true, force: true }))

async function open(path: string, recordFolder?: string): Promise<() => Promise<string>> {
  const checkpoint = await openChecked(await openFolder(path), { folder: recordFolder })
  const identify = await identityOf(checkpoint, readConfig(checkpoint.config, checkpoint.configPath), recordFolder)
  await checkpoint.close()
  return identify
}
const identify = async (path: string, recordFolder?: string) => (await open(path, recordFolder))()

/** A folder with the same files. */
function copyOf(hub: TestHub, name: string): string {
  const copy = join(folder, name)
  mkdirSync(copy)
  for (const file of ['config.json', 'model.safetensors']) copyFileSync(hub.at(file), join(copy, file))
  return copy
}

test('a model is the same wherever its files lie, and another if a bit of them differs', async () => {
  await using hub = await TestHub.start()
  await hub.pull()
  const pulled = await identify(hub.snapshot, hub.recordFolder)
  assert.match(pulled, /^[0-9a-f]{64}$/)
  const copy = copyOf(hub, 'copy')
  assert.equal(await identify(copy), pulled, 'of small files the bytes count, recorded or not')
  flip(join(copy, 'model.safetensors'), { byte: statSync(join(copy, 'model.safetensors')).size - 1 })
  assert.notEqual(await identify(copy), pulled)
})

test('another configuration is another model', async () => {
  await using hub = await TestHub.start()
  await hub.pull()
  const checkpoint = await openChecked(await openFolder(hub.snapshot), { folder: undefined })
  const config = readConfig(checkpoint.config, checkpoint.configPath)
  const [a, b] = [await identityOf(checkpoint, config), await identityOf(checkpoint, { ...config, swigluLimit: 8 })]
  assert.notEqual(await a(), await b())
  await checkpoint.close()
})

test('files that change after the model was loaded from them are refused', async () => {
  await using hub = await TestHub.start()
  await hub.pull()
  const copy = copyOf(hub, 'changing')
  const path = join(copy, 'model.safetensors')
  const identity = await open(copy)
  copyFileSync(path, `${path}.new`)
  renameSync(`${path}.new`, path)
  await assert.rejects(identity(), { name: 'CheckpointError', message: /was changed after the model was loaded/ })
})

test('of a large model without records name, size, time and some bytes of each tensor count', async () => {
  const path = join(folder, 'large.safetensors')
  const numBytes = 2 ** 28
  writeFileSync(path, '')
  truncateSync(path, numBytes) // without a block on the disk
  const tensor = (name: string, begin: number): StoredTensor => {
    const byteLength = numBytes / 2
    return { name, dataType: 'U8', shape: [byteLength], byteLength, file: 'x', location: { path, begin }, read: fail }
  }
  const tensors = new Map([tensor('a', 0), tensor('b', numBytes / 2)].map(tensor => [tensor.name, tensor]))
  const large = { layout: 'openai', folder: { path: folder }, tensors } as unknown as Checkpoint
  const config = {} as Parameters<typeof identityOf>[1]
  const identifyLarge = async () => (await identityOf(large, config))()
  utimesSync(path, 1e9, 1e9)
  const first = await identifyLarge()
  assert.equal(await identifyLarge(), first)
  flip(path, { byte: 0.75 * numBytes, keepTime: true })
  assert.notEqual(await identifyLarge(), first)
  flip(path, { byte: 0.75 * numBytes, keepTime: true })
  assert.equal(await identifyLarge(), first)
  utimesSync(path, 1e9, 1e9 + 1)
  assert.notEqual(await identifyLarge(), first)
})

function fail(): never {
  throw new Error('nothing is read here')
}
