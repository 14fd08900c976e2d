import assert from 'node:assert/strict'
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { sealBytes } from './sealed.ts'
import { createSealed, openSealed } from './sealed-file.node.ts'

const folder = mkdtempSync(join(tmpdir(), 'tutti-sealed-'))
after(() => rmSync(folder, { recursive: true, force: true }))
const bytes = (...numbers: number[]) => Uint8Array.from(numbers)

/** Sections of these bytes. */
async function write(path: string, ...sections: readonly Uint8Array[]): Promise<void> {
  const file = await createSealed(path)
  for (const section of sections) {
    for (const byte of section) await file.write(bytes(byte))
    await file.seal()
  }
  await file.finish()
}

test('what was written is read again, by pieces of any size', async () => {
  const path = join(folder, 'a')
  await write(path, bytes(1, 2, 3), bytes(), bytes(4))
  const file = await openSealed(path)
  assert.deepEqual([file.name, file.bytesLeft], [path, 4 + 3 * sealBytes])
  assert.deepEqual([await file.read(1), await file.read(2)], [bytes(1), bytes(2, 3)])
  await file.checkSeal()
  await file.checkSeal()
  assert.deepEqual(await file.read(1), bytes(4))
  await file.checkSeal()
  assert.equal(file.bytesLeft, 0)
  await assert.rejects(file.read(1), {
    name: 'RequestError',
    message: `${path} is damaged (it ends at byte 100): delete it, and save again`,
  })
  await file.close()
})

test('a section counts only behind the sections that it was written behind', async () => {
  const [path, other] = [join(folder, 'b'), join(folder, 'c')]
  await write(path, bytes(1), bytes(2))
  await write(other, bytes(9), bytes(2))
  const [ours, theirs] = [readFileSync(path), readFileSync(other)]
  const second = 1 + sealBytes
  writeFileSync(path, Buffer.concat([ours.subarray(0, second), theirs.subarray(second)]))
  const file = await openSealed(path)
  await file.read(1)
  await file.checkSeal()
  await file.read(1)
  await assert.rejects(file.checkSeal(), /its first 34 bytes are not those that were written/)
  await file.close()
})

test('until it is finished a file has no name, and only its owner may read it', async () => {
  const inner = mkdtempSync(join(folder, 'inner-'))
  const path = join(inner, 'a')
  writeFileSync(path, 'old', { mode: 0o644 })
  const file = await createSealed(path)
  await file.write(bytes(1))
  assert.equal(readFileSync(path, 'utf8'), 'old')
  for (const name of readdirSync(inner)) if (name !== 'a') assert.equal(statSync(join(inner, name)).mode & 0o777, 0o600)
  await file.abandon()
  assert.deepEqual(readdirSync(inner), ['a'])
  await write(path, bytes(1))
  assert.deepEqual(readdirSync(inner), ['a'])
  assert.equal(statSync(path).mode & 0o777, 0o600)
})

test('what an earlier process left unfinished is removed', async () => {
  const inner = mkdtempSync(join(folder, 'inner-'))
  writeFileSync(join(inner, '.4194304-0123456789ab.partial'), 'of a process that is no more')
  await write(join(inner, 'a'), bytes(1))
  assert.deepEqual(readdirSync(inner), ['a'])
})

test('errors tell what to do', { skip: process.getuid?.() === 0 ? 'root may write anywhere' : false }, async () => {
  const inner = mkdtempSync(join(folder, 'inner-'))
  chmodSync(inner, 0o500)
  await assert.rejects(createSealed(join(inner, 'a')), { name: 'RequestError', message: /may not be read or written/ })
})
