import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, open, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { test } from 'node:test'
import { digest, partialPath, removePartials, writeWhole } from './cache-files.node.ts'

test('partial files go when their process is gone or writes no more; all others stay', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tutti-cache-files-'))
  const child = spawn(process.execPath, ['--eval', ''])
  await once(child, 'exit')
  const [fresh, idle] = [partialPath(folder), partialPath(folder)]
  const kept = [basename(fresh), `x.${child.pid}-ab.partial`, `${digest('x')}.q8`, '.0-ab.partial']
  for (const name of [...kept, basename(idle), `.${child.pid}-ab.partial`]) await writeFile(join(folder, name), '')
  const elevenMinutesAgo = Date.now() / 1000 - 660
  await utimes(idle, elevenMinutesAgo, elevenMinutesAgo)
  await removePartials(folder)
  assert.deepEqual((await readdir(folder)).sort(), kept.sort())
  await rm(folder, { recursive: true })
})

test('bytes are written where they belong', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tutti-cache-files-'))
  const handle = await open(join(folder, 'file'), 'w')
  await writeWhole(handle, Buffer.from('world'), 6)
  await writeWhole(handle, Buffer.from('hello '), 0)
  await handle.close()
  assert.equal(await readFile(join(folder, 'file'), 'utf8'), 'hello world')
  await rm(folder, { recursive: true })
})

test('a digest is 24 hexadecimal digits that depend on every byte', () => {
  assert.match(digest('a', Uint8Array.of(1)), /^[0-9a-f]{24}$/)
  assert.equal(digest('ab'), digest('a', 'b'))
  assert.notEqual(digest('ab'), digest('ac'))
})
