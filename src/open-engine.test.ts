import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { readSpeed } from './checkpoint/read-speed.ts'
import { openFolder } from './checkpoint/source.node.ts'
import { ReferenceDevice } from './device/reference.ts'
import type { StoredTensor } from './kernels/tensor.ts'
import { openEngine, openModel } from './open-engine.ts'

const nano = fileURLToPath(new URL('../models/nano', import.meta.url))

/** The reference, which says that it uses matrices where their files are mapped. */
class MappingDevice extends ReferenceDevice {
  override weightBytes(tensor: Pick<StoredTensor, 'byteLength' | 'shape'>) {
    const bytes = tensor.byteLength
    return tensor.shape.length === 1 ? { own: bytes, mapped: 0 } : { own: 0, mapped: bytes }
  }
}

async function open(availableMemory: number) {
  return openModel({ folder: await openFolder(nano), device: new MappingDevice(), contextLength: 200, availableMemory })
}

test('where the experts find no room the model runs, and says how fast', async () => {
  const { plan, weights, notice } = await open(2 ** 40)
  assert.equal(notice, undefined)
  const inUse = weights.mapped - weights.mappedEmbedding
  assert.ok(plan.mapped === weights.mapped && weights.mappedExperts > 0 && weights.mappedExperts < inUse)
  assert.equal((await open(plan.total + inUse)).notice, undefined)

  const short = await open(plan.total + inUse - 2 ** 20)
  assert.match(
    short.notice ?? '',
    /^1 MiB of the 4\d MiB of weights that are used where they lie on the disk find no room in memory, .* Expect some \d\S* tokens a second at most: reads gave \d\S* GB\/s just now\./,
  )
  const speed = Number(/some (\S+) tokens/.exec(short.notice!)![1])
  const disk = 1e9 * Number(/gave (\S+) GB/.exec(short.notice!)![1])
  const expected = disk / (weights.expertShare * 2 ** 20)
  assert.ok(Math.abs(speed / expected - 1) < 0.1, `${speed} told, ${expected} expected`) // the disk's has two digits
  short.model.close()
})

test('without room for what is its own the model is refused', async () => {
  const { plan } = await open(2 ** 40)
  await assert.rejects(open(plan.total - 1), { name: 'DeviceError' })
})

test('loading ends between two tensors where its signal says so', async () => {
  const controller = new AbortController()
  let numReports = 0
  const onProgress = () => {
    if (++numReports === 3) controller.abort(new Error('enough'))
  }
  const folder = await openFolder(nano)
  const options = {
    folder,
    device: new MappingDevice(),
    availableMemory: 2 ** 40,
    onProgress,
    signal: controller.signal,
  }
  await assert.rejects(openModel(options), /^Error: enough$/)
  assert.equal(numReports, 3)
})

test('an engine tells what memory was planned', async () => {
  const folder = await openFolder(nano)
  const engine = await openEngine({ folder, device: new MappingDevice(), contextLength: 200, availableMemory: 2 ** 40 })
  const { plan } = await open(2 ** 40)
  assert.deepEqual(engine.info.memory, { private: plan.total, mapped: plan.mapped })
  await engine.close()
})

test('the speed of reads is that of the slower ones: the others come from memory', async () => {
  let reads = 0
  const tensors = Array.from({ length: 100 }, (_, i) => ({
    byteLength: 4 * 2 ** 20,
    read: async (begin: number, end: number) => {
      reads++
      if (i % 2 === 0) await new Promise(resolve => setTimeout(resolve, 20))
      return { length: end - begin }
    },
  }))
  const speed = await readSpeed(tensors as unknown as Parameters<typeof readSpeed>[0])
  assert.ok(reads > 16 && reads <= 33, `${reads} reads`)
  assert.ok(speed! > 1e6 && speed! < 2 ** 20 / 0.018, `${speed} bytes a second`)
})

test('holes of files tell nothing of the disk: they do not count, and alone they have no speed', async () => {
  const tensor = (isHole: boolean) => ({
    byteLength: 4 * 2 ** 20,
    read: async (begin: number, end: number) => {
      if (!isHole) await new Promise(resolve => setTimeout(resolve, 20))
      return new Uint8Array(end - begin).fill(isHole ? 0 : 7)
    },
  })
  const tensors = (holes: boolean[]) => holes.map(tensor) as unknown as Parameters<typeof readSpeed>[0]
  assert.equal(await readSpeed(tensors([true, true])), undefined)
  const speed = await readSpeed(tensors([true, false, true, true, false, true]))
  assert.ok(speed! < 2 ** 20 / 0.018, `${speed} bytes a second`)
})
