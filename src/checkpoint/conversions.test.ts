import assert from 'node:assert/strict'
import { test } from 'node:test'
import { encodeBfloat16 } from '../base/bfloat16.ts'
import type { StoredTensor } from './checkpoint.ts'
import { type Conversion, conversionsOf, convert } from './conversions.ts'
import { encodeMxfp4 } from './mxfp4.ts'

const experts = 'model.layers.0.mlp.experts.gate_up_proj'

function stored(name: string, dataType: string, shape: number[], numbers: ArrayBufferView<ArrayBuffer>): StoredTensor {
  const bytes = new Uint8Array(numbers.buffer)
  const read = async (begin = 0, end = bytes.length) => bytes.slice(begin, end)
  return { name, dataType, shape, byteLength: bytes.length, file: 'm.safetensors', read }
}

function conversions(...tensors: StoredTensor[]): Conversion[] {
  return conversionsOf({ layout: 'huggingface', tensors: new Map(tensors.map(tensor => [tensor.name, tensor])) })
}

/** What is made of a tensor, by name, and how much was read for it. */
async function run(conversion: Conversion, pieceBytes?: number): Promise<{ made: Uint8Array[]; read: number }> {
  const made = new Map(conversion.made.map(({ name, byteLength }) => [name, new Uint8Array(byteLength)]))
  let read = 0
  for await (const piece of convert(conversion, 'dir', pieceBytes)) {
    made.get(piece.made.name)!.set(piece.bytes, piece.begin)
    read += piece.readBytes
  }
  return { made: [...made.values()], read }
}

/** [3 experts, 160 inputs, 7 outputs], each output with a size of its own. */
const [numExperts, inputs, outputs] = [3, 160, 7]
const published = Float32Array.from({ length: numExperts * outputs * inputs }, (_, i) => {
  return [0, 0.5, 1, 1.5, -2, 3, -4, 6][(i * 5 + (i >> 4)) % 8] * 2 ** ((Math.floor(i / 32) % 11) - 5)
})
const saved = Float32Array.from(published, (_, i) => {
  const [expert, input, output] = [Math.floor(i / (inputs * outputs)), Math.floor(i / outputs) % inputs, i % outputs]
  return published[(expert * outputs + output) * inputs + input]
})

test('experts are packed to the same bytes whatever is read at a time, from each type', async () => {
  const { blocks, scales } = encodeMxfp4(published)
  const float16 = Uint16Array.from(saved, value => {
    if (value === 0) return 0
    const exponent = Math.floor(Math.log2(Math.abs(value)))
    return (value < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | (Math.abs(value) / 2 ** exponent === 1.5 ? 512 : 0)
  })
  for (const [dataType, numbers] of [
    ['BF16', encodeBfloat16(saved)],
    ['F16', float16],
    ['F32', saved],
  ] as const) {
    const [conversion] = conversions(stored(experts, dataType, [numExperts, inputs, outputs], numbers))
    assert.deepEqual(
      conversion.made.map(({ name, dataType, shape }) => [name, dataType, shape]),
      [
        [`${experts}_blocks`, 'U8', [3, 7, 5, 16]],
        [`${experts}_scales`, 'U8', [3, 7, 5]],
      ],
    )
    for (const pieceBytes of [undefined, 4, 2 * 32 * outputs * 4, 1000]) {
      const { made, read } = await run(conversion, pieceBytes)
      assert.deepEqual(made, [blocks, scales], `${dataType}, ${pieceBytes}`)
      assert.equal(read, numbers.byteLength)
    }
  }
})

test('a block that does not fit is found in whatever piece it lies', async () => {
  for (const wrong of [0.3, 2 ** 20]) {
    const spoilt = saved.slice()
    spoilt[(2 * inputs + 100) * outputs + 4] = wrong
    const [conversion] = conversions(stored(experts, 'F32', [numExperts, inputs, outputs], spoilt))
    for (const pieceBytes of [undefined, 4, 2 * 32 * outputs * 4]) {
      await assert.rejects(run(conversion, pieceBytes), {
        name: 'CheckpointError',
        message: /^model.*gate_up_proj in dir is not MXFP4: the 32 numbers of expert 2, row 4, block 3 cannot/,
      })
    }
  }
})

test('other numbers become bfloat16 piece by piece, or are refused by their place', async () => {
  const numbers = Float32Array.from({ length: 37 }, (_, i) => i - 7)
  const [conversion] = conversions(stored('model.norm.weight', 'F32', [37], numbers))
  const words = new Uint8Array(encodeBfloat16(numbers).buffer)
  for (const pieceBytes of [undefined, 4, 20]) {
    assert.deepEqual(await run(conversion, pieceBytes), { made: [words], read: 148 })
  }
  numbers[31] = 0.1
  const message = /^model\.norm\.weight in dir is F32, and its number 31, 0\.1\d+, is not bfloat16's/
  for (const pieceBytes of [undefined, 4, 20]) await assert.rejects(run(conversion, pieceBytes), { message })
})

test('what is as published, of another layout, or of a shape that cannot be packed, is left as it is', () => {
  const one = Float32Array.of(1)
  const [norm, odd] = [stored('model.norm.weight', 'F32', [1], one), stored(experts, 'BF16', [1, 31, 1], one)]
  assert.deepEqual(conversions(stored('model.norm.weight', 'BF16', [1], one)), [])
  assert.deepEqual(conversions(stored('model.norm.weight', 'F64', [1], one)), [])
  assert.deepEqual(conversions(odd, stored(experts, 'BF16', [32, 1], one)), [])
  assert.deepEqual(
    conversions(stored(experts, 'BF16', [1, 32, 1], one), stored(`${experts}_blocks`, 'U8', [1], one)),
    [],
  )
  assert.deepEqual(conversionsOf({ layout: 'openai', tensors: new Map([[norm.name, norm]]) }), [])
  assert.equal(conversions(norm).length, 1)
})
