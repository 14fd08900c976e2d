import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openCheckpoint } from './checkpoint.ts'
import { type Folder, memoryFolder } from './source.ts'
import { safetensorsHeader } from './write.ts'

const text = (value: unknown) => new TextEncoder().encode(typeof value === 'string' ? value : JSON.stringify(value))

/** A weight file whose tensors have these names and their place in the list as their one byte. */
function weights(...names: string[]): Uint8Array {
  const head = safetensorsHeader(names.map(name => ({ name, dataType: 'U8', shape: [1], byteLength: 1 })))
  return Uint8Array.from([...head, ...names.keys()])
}

const index = (weightMap: unknown) => text({ metadata: { total_size: 1 }, weight_map: weightMap })
const config = text({ num_hidden_layers: 1 })
const indexName = 'model.safetensors.index.json'
const [first, second] = ['block.0.attn.sinks', 'norm.scale']

test('a folder with one file is opened: layout, configuration, tensors by name', async () => {
  const checkpoint = await openCheckpoint(
    memoryFolder({ 'config.json': config, 'model.safetensors': weights(first, second) }, 'dir'),
  )
  assert.equal(checkpoint.layout, 'openai')
  assert.equal(checkpoint.config.get('num_hidden_layers'), 1)
  assert.equal(checkpoint.configPath, 'dir/config.json')
  assert.equal(checkpoint.byteLength, 2)
  const tensor = checkpoint.tensors.get(second)!
  assert.deepEqual([tensor.dataType, tensor.shape, tensor.byteLength, tensor.file], ['U8', [1], 1, 'model.safetensors'])
  assert.deepEqual(await tensor.read(), Uint8Array.of(1))
  assert.deepEqual(await tensor.read(1), new Uint8Array(0))
  for (const [begin, end] of [
    [-1, 1],
    [0, 2],
    [1, 0],
    [Number.NaN, 1],
  ])
    await assert.rejects(tensor.read(begin, end), RangeError)
  await checkpoint.close()
})

test('weights and configuration are found where the models are published', async () => {
  const hf = weights('model.layers.0.self_attn.sinks')
  const openai = weights(first)
  const original = text({ original: true })
  const cases: [what: string, files: Record<string, Uint8Array>, layout: string, path: string, configPath: string][] = [
    [
      'both layouts: the outer',
      {
        'config.json': config,
        'm.safetensors': hf,
        'original/config.json': original,
        'original/m.safetensors': openai,
      },
      'huggingface',
      'dir',
      'dir/config.json',
    ],
    [
      'original/ alone',
      { 'config.json': config, 'original/config.json': original, 'original/m.safetensors': openai },
      'openai',
      'dir/original',
      'dir/original/config.json',
    ],
    [
      'original/ without its own config',
      { 'config.json': config, 'original/m.safetensors': openai },
      'openai',
      'dir/original',
      'dir/config.json',
    ],
    [
      'several files without an index',
      { 'config.json': config, 'a.safetensors': weights(first), 'b.safetensors': weights(second) },
      'openai',
      'dir',
      'dir/config.json',
    ],
    [
      'several files and an index',
      {
        'config.json': config,
        'a.safetensors': weights(first),
        'b.safetensors': weights(second),
        'other.safetensors': text('not a model'),
        [indexName]: index({ [first]: 'a.safetensors', [second]: 'b.safetensors' }),
      },
      'openai',
      'dir',
      'dir/config.json',
    ],
    [
      'an index of another name',
      {
        'config.json': config,
        'a.safetensors': weights(first),
        'x.safetensors.index.json': index({ [first]: 'a.safetensors' }),
      },
      'openai',
      'dir',
      'dir/config.json',
    ],
  ]
  for (const [what, files, layout, path, configPath] of cases) {
    const checkpoint = await openCheckpoint(memoryFolder(files, 'dir'))
    assert.deepEqual(
      [checkpoint.layout, checkpoint.folder.path, checkpoint.configPath],
      [layout, path, configPath],
      what,
    )
  }
})

test('a folder that is no model, or half of one, is refused with the cure', async () => {
  const good = { 'config.json': config, 'a.safetensors': weights(first) }
  const cases: [files: Record<string, Uint8Array>, message: RegExp][] = [
    [{}, /^dir holds no \*\.safetensors \(0 other files\): check the path, or download openai\/gpt-oss-20b/],
    [{ 'gpt-oss-20b.gguf': text('GGUF') }, /holds GGUF \(gpt-oss-20b\.gguf\), and tutti reads safetensors: download/],
    [
      { 'config.json': config, 'pytorch_model.bin': text('x') },
      /holds pytorch_model\.bin, and tutti reads safetensors/,
    ],
    [{ 'model.safetensors.incomplete': text('x') }, /an unfinished download \(model\.safetensors\.incomplete\)/],
    [{ 'a.safetensors': weights(first) }, /dir has weights and no config\.json/],
    [{ 'config.json': text('[]'), 'a.safetensors': weights(first) }, /dir\/config\.json must hold a JSON object/],
    [
      { 'config.json': text('{"a":1,"a":2}'), 'a.safetensors': weights(first) },
      /config\.json is not valid JSON: the key "a" is repeated/,
    ],
    [
      { 'config.json': Uint8Array.of(0xff), 'a.safetensors': weights(first) },
      /config\.json is not valid JSON: it is not valid UTF-8/,
    ],
    [
      { ...good, 'b.safetensors': weights(first) },
      /the tensor "block\.0\.attn\.sinks" twice, in a\.safetensors and in b\.safetensors/,
    ],
    [{ 'config.json': config, 'a.safetensors': weights() }, /weight files without a tensor/],
    [
      { 'config.json': config, 'a.safetensors': weights('conv.weight') },
      /dir is not gpt-oss: among its 1 tensors \("conv\.weight", …\)/,
    ],
    [{ ...good, [indexName]: text('{}') }, /index\.json has no weight_map/],
    [{ ...good, [indexName]: index([]) }, /index\.json has no weight_map/],
    [{ ...good, [indexName]: index({ [first]: 1 }) }, /gives no file name for the tensor "block\.0\.attn\.sinks"/],
    [
      { ...good, [indexName]: index({ [first]: 'b.safetensors' }) },
      /dir has no file b\.safetensors: the download is incomplete/,
    ],
    [
      { ...good, [indexName]: index({ [first]: 'a.safetensors', [second]: 'a.safetensors' }) },
      /the index has the tensor "norm\.scale" in a\.safetensors, but it lies in none of the files: .* download the model again/,
    ],
    [
      {
        'config.json': config,
        'a.safetensors': weights(first, second),
        [indexName]: index({ [first]: 'a.safetensors' }),
      },
      /a\.safetensors has the tensor "norm\.scale", which the index does not list/,
    ],
    [
      { ...good, 'x.safetensors.index.json': index({}), 'y.safetensors.index.json': index({}) },
      /dir has 2 indexes \(x\..*, y\..*\); keep/,
    ],
    [
      {
        'config.json': config,
        'a.safetensors': weights(first),
        'b.safetensors': weights(second),
        [indexName]: index({ [first]: 'b.safetensors', [second]: 'b.safetensors' }),
      },
      /in b\.safetensors, but it lies in none of the files/,
    ],
  ]
  for (const [files, message] of cases) {
    let closed = false
    const folder: Folder = { ...memoryFolder(files, 'dir'), close: async () => void (closed = true) }
    await assert.rejects(openCheckpoint(folder), { name: 'CheckpointError', message }, String(message))
    assert.ok(closed, 'the folder is closed on failure')
  }
})

test('an index names plain files of its own folder, on every system', async () => {
  const hostile = [
    ...[
      '../a.safetensors',
      '/etc/a.safetensors',
      'original/a.safetensors',
      '..\\a.safetensors',
      'C:a.safetensors',
      '\\\\host\\a.safetensors',
    ],
    ...[
      '.safetensors',
      '..safetensors',
      '.hidden.safetensors',
      'a.safetensors\0',
      'a\0.safetensors',
      'a.safetensors/',
      'a\n.safetensors',
    ],
    ...['a.bin', '', 'a.safetensors::$DATA', 'a?.safetensors', '*.safetensors', 'http://host/a.safetensors'],
  ]
  for (const file of hostile) {
    const reads: string[] = []
    const memory = memoryFolder({
      'config.json': config,
      'a.safetensors': weights(first),
      [indexName]: index({ [first]: file }),
    })
    const read: Folder['read'] = (name, begin, end) => {
      reads.push(name)
      return memory.read(name, begin, end)
    }
    const folder: Folder = { ...memory, read }
    await assert.rejects(
      openCheckpoint(folder),
      { name: 'CheckpointError', message: /an index names plain \*\.safetensors files/ },
      file,
    )
    assert.deepEqual(reads, ['config.json', indexName], `${file}: nothing else was read`)
  }
})
