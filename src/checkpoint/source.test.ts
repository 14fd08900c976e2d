import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdir, mkdtemp, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { openFolder as openDisk } from './source.node.ts'
import { type Folder, memoryFolder, subfolder } from './source.ts'
import { openFolder as openWeb } from './source.web.ts'

const text = new TextEncoder()
const files: Record<string, Uint8Array> = {
  'config.json': text.encode('{}'),
  'model.safetensors': text.encode('0123456789'),
  'original/config.json': text.encode('{"original":true}'),
}

/** A server of these files that answers ranges, unless told otherwise. */
async function serve(answer: RequestListener = answerRanges): Promise<{ url: string; close(): Promise<void> }> {
  const server = createServer(answer).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const close = async () => {
    server.closeAllConnections()
    server.close()
    await once(server, 'close')
  }
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/models/`, close }
}

const answerRanges: RequestListener = (request, response) => {
  const file = files[request.url!.replace('/models/', '')]
  if (!file) return void response.writeHead(404).end()
  const range = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? '')
  if (!range) return void response.writeHead(200, { 'content-length': file.length }).end(file)
  if (Number(range[1]) >= file.length) {
    return void response.writeHead(416, { 'content-range': `bytes */${file.length}` }).end()
  }
  const [begin, last] = [Number(range[1]), Math.min(Number(range[2]), file.length - 1)]
  response
    .writeHead(206, { 'content-range': `bytes ${begin}-${last}/${file.length}` })
    .end(file.subarray(begin, last + 1))
}

describe('a folder of files', () => {
  let disk: string
  let server: { url: string; close(): Promise<void> }
  before(async () => {
    disk = await mkdtemp(join(tmpdir(), 'tutti-source-'))
    await mkdir(join(disk, 'original'))
    await mkdir(join(disk, '.cache'))
    await writeFile(join(disk, '.cache', 'x.safetensors'), '')
    await symlink('nowhere', join(disk, 'dangling.safetensors'))
    for (const [name, bytes] of Object.entries(files)) await writeFile(join(disk, name), bytes)
    server = await serve()
  })
  after(async () => {
    await server.close()
    await rm(disk, { recursive: true })
  })

  const kinds: [kind: string, open: () => Promise<Folder>][] = [
    ['in memory', async () => memoryFolder(files)],
    ['on disk', () => openDisk(disk)],
    ['on the web', () => openWeb(server.url)],
  ]
  for (const [kind, open] of kinds) {
    test(`${kind} lists, measures and reads by byte range`, async () => {
      const folder = await open()
      assert.deepEqual(await folder.list(), ['config.json', 'model.safetensors', 'original/config.json'])
      assert.equal(await folder.size('model.safetensors'), 10)
      const read = async (begin: number, end: number) =>
        Buffer.from(await folder.read('model.safetensors', begin, end)).toString()
      assert.deepEqual(
        [await read(0, 10), await read(3, 5), await read(10, 10), await read(4, 4)],
        ['0123456789', '34', '', ''],
      )
      const inner = subfolder(folder, 'original')
      assert.deepEqual(await inner.list(), ['config.json'])
      assert.equal(await inner.size('config.json'), 17)
      assert.match(inner.path, /[^/]\/original$/)
      await folder.close()
    })

    test(`${kind} a missing file and a range behind the end are errors with their names`, async () => {
      const folder = await open()
      await assert.rejects(folder.size('no.safetensors'), {
        name: 'CheckpointError',
        message: /has no file no\.safetensors/,
      })
      await assert.rejects(folder.read('model.safetensors', 8, 11), {
        name: 'CheckpointError',
        message: /model\.safetensors in .* has 10 bytes where byte 11 was wanted: it changed/,
      })
      await folder.close()
    })
  }

  test('on disk hands out memory of its own and notices a file that was cut meanwhile', async () => {
    const folder = await openDisk(disk)
    const [first, second] = [await folder.read('config.json', 0, 2), await folder.read('config.json', 0, 2)]
    first[0] = 0
    assert.equal(second[0], 0x7b)
    await writeFile(join(disk, 'cut'), 'abcdef')
    await folder.read('cut', 0, 6)
    await truncate(join(disk, 'cut'), 3)
    await assert.rejects(folder.read('cut', 0, 6), /cut in .* has 3 bytes where byte 6 was wanted/)
    await rm(join(disk, 'cut'))
    await folder.close()
  })

  test('on disk a path that is none, or a file, says so', async () => {
    await assert.rejects(openDisk(join(disk, 'no')), {
      name: 'CheckpointError',
      message: /no does not exist; check the path/,
    })
    const gguf = join(disk, 'original', 'gpt-oss-20b.gguf')
    await writeFile(gguf, '')
    await assert.rejects(openDisk(gguf), /b\.gguf is GGUF, and tutti reads safetensors: give a folder that holds/)
    await rename(gguf, join(disk, 'original', 'weights.bin'))
    await assert.rejects(
      openDisk(join(disk, 'original', 'weights.bin')),
      /weights\.bin is no \*\.safetensors file: give/,
    )
    await rm(join(disk, 'original', 'weights.bin'))
    await assert.rejects(openDisk(join(disk, 'config.json', 'x')), /a part of the path is a file/)
  })

  test('on disk a file of a model stands for it: alone where it is whole, with its folder where it is a part', async () => {
    const shards = await mkdtemp(join(tmpdir(), 'tutti-shards-'))
    const put = (name: string, content = '') => writeFile(join(shards, name), content)
    const listed = async (name: string) => (await openDisk(join(shards, name))).list()
    await put('config.json', '{}')
    await put('a.safetensors', 'abc')
    await put('b.safetensors')
    const alone = await openDisk(join(shards, 'a.safetensors'))
    assert.deepEqual(await alone.list(), ['a.safetensors', 'config.json'])
    assert.equal(alone.path, shards)
    assert.equal(alone.pathOf!('a.safetensors'), join(shards, 'a.safetensors'))
    assert.equal(Buffer.from(await alone.read('a.safetensors', 1, 3)).toString(), 'bc')
    assert.equal(await alone.size('a.safetensors'), 3)
    await alone.close()
    const all = ['a.safetensors', 'b.safetensors', 'config.json']
    assert.deepEqual(await listed('config.json'), all)
    await put('model-00001-of-00002.safetensors')
    assert.deepEqual(await listed('model-00001-of-00002.safetensors'), [...all, 'model-00001-of-00002.safetensors'])
    await rm(join(shards, 'model-00001-of-00002.safetensors'))
    await put('model.safetensors.index.json', '{"weight_map":{"x":"b.safetensors"}}')
    const index = 'model.safetensors.index.json'
    assert.deepEqual(await listed('a.safetensors'), ['a.safetensors', 'config.json'])
    assert.deepEqual(await listed('b.safetensors'), [...all, index])
    assert.deepEqual(await listed(index), [...all, index])
    await rm(shards, { recursive: true })
  })
})

test('on the web a page in place of a file is no file, and an empty file has 0 bytes', async () => {
  const server = await serve((request, response) => {
    if (request.url === '/models/config.json') response.writeHead(416, { 'content-range': 'bytes */0' }).end()
    else if (request.url === '/models/model.safetensors.index.json') {
      response.writeHead(206, { 'content-type': 'text/html', 'content-range': 'bytes 0-0/15' }).end('<')
    } else response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' }).end('<!doctype html>')
  })
  const folder = await openWeb(server.url)
  assert.deepEqual(await folder.list(), ['config.json'])
  assert.equal(await folder.size('config.json'), 0)
  await assert.rejects(folder.size('model.safetensors'), /has no file model\.safetensors/)
  await server.close()
})

test('a web server without range requests, or with encoded or unmeasured files, is refused with the cure', async () => {
  const cases: [answer: RequestListener, act: (folder: Folder) => Promise<unknown>, message: RegExp][] = [
    [
      (_, response) => response.writeHead(200, { 'content-length': 10 }).end('0123456789'),
      folder => folder.read('model.safetensors', 0, 4),
      /answered 200 to a request for bytes 0 to 4: its server must support range requests/,
    ],
    [
      (_, response) => response.writeHead(206, { 'content-range': 'bytes 2-5/10' }).end('2345'),
      folder => folder.read('model.safetensors', 0, 4),
      /answered 206 to a request for bytes 0 to 4: its server must support range/,
    ],
    [
      (_, response) => response.writeHead(206, { 'content-range': 'bytes 0-3/10' }).end('01'),
      folder => folder.read('model.safetensors', 0, 4),
      /has 2 bytes where byte 4 was wanted/,
    ],
    [
      (_, response) => response.writeHead(206, { 'content-encoding': 'gzip', 'content-range': 'bytes 0-0/10' }).end(),
      folder => folder.size('model.safetensors'),
      /answered 206 to a request for bytes 0 to 1: its server must support range/,
    ],
    [
      (_, response) => response.writeHead(206, { 'content-range': 'bytes 0-0/*' }).end('0'),
      folder => folder.size('model.safetensors'),
      /must support range requests \(206 with Content-Range and the size\)/,
    ],
    [(_, response) => response.writeHead(500).end(), folder => folder.list(), /answered 500/],
  ]
  for (const [answer, act, message] of cases) {
    const server = await serve(answer)
    await assert.rejects(act(await openWeb(server.url)), { name: 'CheckpointError', message }, String(message))
    await server.close()
  }
  const server = await serve()
  await server.close()
  await assert.rejects((await openWeb(server.url)).list(), { name: 'CheckpointError', message: /cannot be reached/ })
})
