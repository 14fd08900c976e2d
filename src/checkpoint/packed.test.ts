import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { chmod, cp, mkdir, mkdtemp, open, readdir, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { type SavedTensor, saveUnquantized } from '../../test/logits/unquantized.ts'
import { decodeBfloat16 } from '../base/bfloat16.ts'
import { ReferenceDevice } from '../device/reference.ts'
import { openModel } from '../open-engine.ts'
import { openCheckpoint } from './checkpoint.ts'
import { openPacked, type PackOptions } from './packed.node.ts'
import { openFolder } from './source.node.ts'
import { safetensorsHeader } from './write.ts'

const golden = (name: string) => join(import.meta.dirname, '../../test/golden/logits', name)
const gateUp = 'model.layers.0.mlp.experts.gate_up_proj'

const asFloat32 = (tensor: SavedTensor): SavedTensor => {
  if (tensor.dataType !== 'BF16') return tensor
  const values = decodeBfloat16(new Uint16Array(tensor.bytes.slice().buffer))
  return { ...tensor, dataType: 'F32', byteLength: 4 * values.length, bytes: new Uint8Array(values.buffer) }
}

describe('a checkpoint saved by transformers', () => {
  let root: string
  let saved: string
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'tutti-packed-'))
    saved = join(root, 'saved')
    await saveUnquantized(golden('tiny/hf'), saved)
  })
  after(() => rm(root, { recursive: true }))

  const newCache = () => mkdtemp(join(root, 'cache-'))
  const packed = async (cache: string, options: Partial<PackOptions> = {}, from = saved) =>
    openPacked(await openFolder(from), { folder: cache, spareBytes: 0, ...options })
  const filesOf = async (cache: string) => readdir(join(cache, 'packed')).catch(() => [])

  for (const [what, name, change] of [
    ['in bfloat16', 'tiny/hf', undefined],
    ['in float32 throughout', 'tiny/hf', asFloat32],
    ['in bfloat16, of sizes that tiles do not divide', 'odd-sizes/hf', undefined],
  ] as const) {
    test(`unquantised ${what}, has the very logits of the published one`, async () => {
      const [cache, folder] = [await newCache(), await mkdtemp(join(root, 'model-'))]
      await saveUnquantized(golden(name), folder, change)
      const right = await logitsOf(golden(name))
      const progress: [done: number, total: number][] = []
      const options = { folder: cache, onProgress: (done: number, total: number) => void progress.push([done, total]) }
      assert.deepEqual(await logitsOf(folder, options), right)
      assert.deepEqual(await logitsOf(folder, options), right, 'once more, from the cache')
      const files = await filesOf(cache)
      assert.equal(files.length, 1)
      assert.match(files[0], /^[0-9a-f]{24}-[0-9a-f]{24}\.safetensors$/)
      const [first, second] = [progress[0][1], progress.at(-1)![1]]
      const turn = progress.findIndex(([, total]) => total === second)
      assert.ok(second < first, 'the second time there is only loading')
      for (const part of [progress.slice(0, turn), progress.slice(turn)]) {
        assert.ok(part.every(([done], i) => i === 0 || done >= part[i - 1][0]))
        assert.deepEqual(part.at(-1), [part[0][1], part[0][1]], 'all of what was announced')
      }
    })
  }

  test('what these tests save is what transformers saves', async () => {
    const expected = JSON.parse(
      await readText(join(import.meta.dirname, '../../test/golden/unquantized/unquantized.json')),
    )
    assert.equal(Object.keys(expected).length, 9)
    for (const [name, tensors] of Object.entries(expected)) {
      const made: Record<string, { shape: readonly number[]; sha256: string }> = {}
      await saveUnquantized(golden(`${name}/hf`), join(root, 'same'), tensor => {
        if (!tensor.name.endsWith('_proj')) return tensor
        made[tensor.name] = { shape: tensor.shape, sha256: createHash('sha256').update(tensor.bytes).digest('hex') }
        return tensor
      })
      assert.deepEqual(made, tensors, name)
    }
  })

  test('tensors are the published ones, and those that need no change are read where they are', async () => {
    const checkpoint = await packed(await newCache())
    const right = await openCheckpoint(await openFolder(golden('tiny/hf')))
    assert.deepEqual([...checkpoint.tensors.keys()].sort(), [...right.tensors.keys()].sort())
    for (const tensor of checkpoint.tensors.values()) {
      const other = right.tensors.get(tensor.name)!
      assert.deepEqual([tensor.dataType, tensor.shape], [other.dataType, other.shape])
      assert.equal(tensor.location!.path.startsWith(saved), tensor.dataType === 'BF16')
      if (tensor.dataType === 'BF16') assert.deepEqual(await tensor.read(), await other.read())
      const bytes = Buffer.alloc(tensor.byteLength)
      const handle = await open(tensor.location!.path)
      await handle.read(bytes, 0, bytes.length, tensor.location!.begin)
      await handle.close()
      assert.ok(bytes.equals(await tensor.read()), 'it lies where it says')
    }
    assert.match(checkpoint.note!, /^8 tensors are read as tutti packed them, from .*\/packed\/.*\.safetensors$/)
    await checkpoint.close()
    await right.close()
  })

  test('norms in float32 beside quantised experts: only they are converted', async () => {
    const [cache, folder] = [await newCache(), join(root, 'norms')]
    await saveUnquantized(golden('tiny/hf'), folder, t => (t.name.includes('norm') ? asFloat32(t) : t))
    const checkpoint = await packed(cache, {}, folder)
    assert.equal(checkpoint.tensors.get('model.norm.weight')!.dataType, 'BF16')
    await checkpoint.close()
    assert.deepEqual(await logitsOf(folder, { folder: cache }), await logitsOf(golden('tiny/hf')))
  })

  test('two models in one folder, each opened by its file, keep their own', async () => {
    const [cache, folder] = [await newCache(), join(root, 'two')]
    const tensors: SavedTensor[] = []
    await saveUnquantized(golden('plain/hf'), folder, tensor => {
      tensors.push(tensor)
      return tensor
    })
    for (const name of await readdir(folder)) if (name !== 'config.json') await rm(join(folder, name))
    const whole = Buffer.concat([safetensorsHeader(tensors), ...tensors.map(({ bytes }) => bytes)])
    for (const name of ['one.safetensors', 'two.safetensors']) await writeFile(join(folder, name), whole)
    const right = await logitsOf(golden('plain/hf'))
    for (const name of ['one.safetensors', 'two.safetensors']) {
      assert.deepEqual(await logitsOf(join(folder, name), { folder: cache }), right)
    }
    assert.equal((await filesOf(cache)).length, 2)
    await assert.rejects(logitsOf(folder, { folder: cache }), /twice, in one\.safetensors and in two\.safetensors/)
  })

  test('a published checkpoint is left alone', async () => {
    const cache = await newCache()
    const checkpoint = await packed(cache, {}, golden('tiny/hf'))
    assert.equal(checkpoint.note, undefined)
    assert.deepEqual(await filesOf(cache), [])
    await checkpoint.close()
  })

  test('a number that MXFP4 or bfloat16 cannot hold is refused with its place and the cure, and nothing stays', async () => {
    const spoil = (name: string, index: number, bits: number) => (tensor: SavedTensor) => {
      if (tensor.name === name)
        new DataView(tensor.bytes.buffer, tensor.bytes.byteOffset).setUint16(2 * index, bits, true)
      return tensor
    }
    // [8 experts, 64 inputs, 128 outputs]: expert 5, input 40, output 17.
    const at = (5 * 64 + 40) * 128 + 17
    const cases: [change: (tensor: SavedTensor) => SavedTensor, message: RegExp][] = [
      [
        spoil(gateUp, at, 0x3f81),
        /^model\.layers\.0\.mlp\.experts\.gate_up_proj in .*saved is not MXFP4: the 32 numbers of expert 5, row 17, block 1 cannot be kept exactly \(1\.0078125 among them is neither 0 nor 2\^n nor 1\.5 · 2\^n, n from −128 to 127\)\. .*save the model with its experts in MXFP4/,
      ],
      [spoil(gateUp, at, 0x7fc0), /expert 5, row 17, block 1 cannot be kept exactly \(NaN among them/],
      [
        spoil(gateUp, at, 0x6000),
        /expert 5, row 17, block 1 .* and 36893488100000000000 among them need different scales/,
      ],
      [
        tensor => {
          const changed = asFloat32(tensor)
          if (tensor.name === gateUp) new DataView(changed.bytes.buffer).setFloat32(4 * at, 0.1, true)
          return changed
        },
        /expert 5, row 17, block 1 cannot be kept exactly \(0\.100000001 among them is neither/,
      ],
      [
        tensor => {
          if (tensor.name !== 'model.norm.weight') return tensor
          const changed = asFloat32(tensor)
          new DataView(changed.bytes.buffer).setFloat32(4 * 3, 1.001, true)
          return changed
        },
        /^model\.norm\.weight in .* is F32, and its number 3, 1\.00\d+, is not bfloat16's: .* save the model in bfloat16/,
      ],
    ]
    for (const [change, message] of cases) {
      const [cache, folder] = [await newCache(), join(await mkdtemp(join(root, 'spoilt-')), 'saved')]
      await saveUnquantized(golden('tiny/hf'), folder, change)
      await assert.rejects(packed(cache, {}, folder), { name: 'CheckpointError', message })
      assert.deepEqual(await filesOf(cache), [])
    }
  })

  test('what is no model for the configuration or the memory is refused before anything is converted', async () => {
    const [cache, folder] = [await newCache(), join(root, 'other')]
    await saveUnquantized(golden('tiny/hf'), folder)
    const config = JSON.parse(await readText(join(folder, 'config.json')))
    await writeFile(join(folder, 'config.json'), JSON.stringify({ ...config, intermediate_size: 96 }))
    await assert.rejects(logitsOf(folder, { folder: cache }), {
      name: 'CheckpointError',
      message: /gate_up_proj_blocks has shape \[8, 128, 2, 16\], expected \[8, 192, 2, 16\]/,
    })
    await assert.rejects(logitsOf(saved, { folder: cache }, 1000), { name: 'DeviceError' })
    assert.deepEqual(await filesOf(cache), [])
  })

  test('converting ends when it is aborted, and nothing stays', async () => {
    const cache = await newCache()
    const aborted = new AbortController()
    const onProgress = () => aborted.abort(new Error('enough'))
    await assert.rejects(packed(cache, { signal: aborted.signal, onProgress }), /^Error: enough$/)
    assert.deepEqual(await filesOf(cache), [])
  })

  test('two that pack at once both have it, and one file stays', async () => {
    const cache = await newCache()
    const both = await Promise.all([packed(cache), packed(cache)])
    const right = await openCheckpoint(await openFolder(golden('tiny/hf')))
    const [blocks] = [`${gateUp}_blocks`]
    const read = both.map(checkpoint => checkpoint.tensors.get(blocks)!.read())
    const [one, other] = await Promise.all(read)
    assert.deepEqual(one, other)
    assert.equal(one.length, right.tensors.get(blocks)!.byteLength)
    for (const checkpoint of [...both, right]) await checkpoint.close()
    assert.equal((await filesOf(cache)).length, 1)
  })

  test('what a process left that was killed while it packed is removed by the next', async () => {
    const cache = await newCache()
    const script = `
      import { openPacked } from ${JSON.stringify(join(import.meta.dirname, 'packed.node.ts'))}
      import { openFolder } from ${JSON.stringify(join(import.meta.dirname, 'source.node.ts'))}
      const options = { folder: ${JSON.stringify(cache)}, spareBytes: 0, onProgress: () => process.kill(process.pid, 'SIGKILL') }
      await openPacked(await openFolder(${JSON.stringify(saved)}), options)`
    const child = spawn(process.execPath, ['--conditions=tutti-source', '--input-type=module', '--eval', script])
    assert.deepEqual(await once(child, 'exit'), [null, 'SIGKILL'])
    assert.match((await filesOf(cache)).join(), /^\.\d+-[0-9a-f]+\.partial$/)
    const checkpoint = await packed(cache)
    await checkpoint.close()
    assert.match((await filesOf(cache)).join(), /^[0-9a-f]{24}-[0-9a-f]{24}\.safetensors$/)
  })

  test('files that changed are packed anew, and what was made of them before is removed', async () => {
    const [cache, folder] = [await newCache(), join(root, 'changing')]
    await cp(saved, folder, { recursive: true })
    await (await packed(cache, {}, folder)).close()
    const [before] = await filesOf(cache)
    await (await packed(cache, {}, folder)).close()
    assert.deepEqual(await filesOf(cache), [before], 'unchanged: found')
    await utimes(join(folder, 'model-00001-of-00002.safetensors'), new Date(), new Date(1e12))
    await (await packed(cache, {}, folder)).close()
    const [now, ...others] = await filesOf(cache)
    assert.notEqual(now, before)
    assert.deepEqual(others, [])
  })

  test('a file that is not whole is made again, and one that nobody used for a month is removed', async () => {
    const cache = await newCache()
    await (await packed(cache)).close()
    const [file] = await filesOf(cache)
    const path = join(cache, 'packed', file)
    const { size } = await stat(path)
    await truncate(path, size - 1)
    const old = join(cache, 'packed', `${'0'.repeat(24)}-${'1'.repeat(24)}.safetensors`)
    await writeFile(old, '')
    await utimes(old, new Date(0), new Date(0))
    await (await packed(cache)).close()
    assert.deepEqual(await filesOf(cache), [file])
    assert.equal((await stat(path)).size, size)
  })

  test('without room, or without leave to write, the cure is told', async () => {
    const cache = await newCache()
    await assert.rejects(packed(cache, { spareBytes: 2 ** 60 }), {
      name: 'DeviceError',
      message:
        /saved has to be packed to MXFP4, and .*packed has \d+ MiB free where 1099511627777 MiB are wanted: free some, or set TUTTI_CACHE_DIR/,
    })
    await assert.rejects(packed(cache, { folder: undefined }), {
      name: 'DeviceError',
      message: /has 8 tensors to convert \(model\.layers\.0\.mlp\.experts\.\w+, …\), .* set TUTTI_CACHE_DIR/,
    })
    const file = join(cache, 'file')
    await writeFile(file, '')
    await assert.rejects(packed(file), {
      name: 'DeviceError',
      message: /a part of the path is a file: set TUTTI_CACHE_DIR/,
    })
  })

  test('a read-only cache serves what it has, and says what to do for what it has not', async t => {
    if (process.platform === 'win32' || process.getuid?.() === 0) return t.skip('this user may write everywhere')
    const cache = await newCache()
    await mkdir(join(cache, 'packed'))
    await chmod(join(cache, 'packed'), 0o500)
    await assert.rejects(packed(cache), {
      name: 'DeviceError',
      message: /may not be written by this user: set TUTTI_CACHE_DIR/,
    })
    await chmod(join(cache, 'packed'), 0o700)
    await (await packed(cache)).close()
    await chmod(join(cache, 'packed'), 0o500)
    await (await packed(cache)).close()
    await chmod(join(cache, 'packed'), 0o700)
  })

  test('where it may not be made, the checkpoint stays as it is', async () => {
    const cache = await newCache()
    const checkpoint = await packed(cache, { make: false })
    assert.ok(checkpoint.tensors.has(gateUp))
    await checkpoint.close()
    await (await packed(cache)).close()
    const again = await packed(cache, { make: false })
    assert.ok(again.tensors.has(`${gateUp}_blocks`))
    await again.close()
  })
})

const readText = async (path: string) => {
  const handle = await open(path)
  const text = await handle.readFile('utf8')
  await handle.close()
  return text
}

/** Logits after each of some tokens, on the reference device. */
async function logitsOf(
  path: string,
  pack?: { folder: string; onProgress?: (done: number, total: number) => void },
  availableMemory = 2 ** 40,
): Promise<Float32Array> {
  const { model } = await openModel({
    folder: await openFolder(path),
    ...(pack && {
      open: (folder, converting) => openPacked(folder, { folder: pack.folder, spareBytes: 0, ...converting }),
    }),
    device: new ReferenceDevice(),
    contextLength: 64,
    availableMemory,
    onProgress: pack?.onProgress,
  })
  const tokens = Array.from({ length: 24 }, (_, i) => (i * 37) % 200)
  const cache = model.newCache(tokens.length)
  const logits = (await model.forward([{ cache, tokens, start: 0, logits: 'all' }]))!
  model.close()
  return logits
}
