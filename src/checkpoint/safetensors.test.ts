import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CheckpointError } from '../base/errors.ts'
import { readHeader } from './safetensors.ts'
import { memoryFolder } from './source.ts'
import { safetensorsHeader, type TensorDeclaration } from './write.ts'

const u8 = '"dtype":"U8","shape":[4],"data_offsets":[0,4]'

/** A file with this header and as many bytes of data. */
function withHeader(header: string | Uint8Array, dataBytes = 4, length?: bigint): Uint8Array {
  const text = typeof header === 'string' ? new TextEncoder().encode(header) : header
  const file = new Uint8Array(8 + text.length + dataBytes)
  new DataView(file.buffer).setBigUint64(0, length ?? BigInt(text.length), true)
  file.set(text, 8)
  return file
}

const read = (file: Uint8Array) => readHeader(memoryFolder({ 'm.safetensors': file }, 'dir'), 'm.safetensors')

test('a header is read with the places of its tensors in the file, in their order', async () => {
  const header =
    '{"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[3,7]},"__metadata__":{"format":"pt"},"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}'
  const { metadata, tensors } = await read(withHeader(header, 7))
  const begin = 8 + header.length
  assert.deepEqual(metadata, new Map([['format', 'pt']]))
  assert.deepEqual(tensors, [
    { name: 'a', dataType: 'U8', shape: [3], begin, end: begin + 3 },
    { name: 'b', dataType: 'BF16', shape: [2, 1], begin: begin + 3, end: begin + 7 },
  ])
})

test('what the writer writes is read back, aligned to 8 bytes', async () => {
  const declared: TensorDeclaration[] = [
    { name: 'x"\n😀', dataType: 'F32', shape: [2, 2], byteLength: 16 },
    { name: '__proto__', dataType: 'U8', shape: [0], byteLength: 0 },
    { name: 'z', dataType: 'U8', shape: [], byteLength: 1 },
  ]
  for (const metadata of [undefined, { format: 'pt' }]) {
    const head = safetensorsHeader(declared, metadata)
    assert.equal(head.length % 8, 0)
    const { tensors } = await read(Uint8Array.from([...head, ...new Uint8Array(17)]))
    assert.deepEqual(
      tensors.map(({ name, dataType, shape, begin, end }) => ({ name, dataType, shape, byteLength: end - begin })),
      declared,
    )
  }
})

test('a damaged file is refused with the file, the fact, the numbers and what to do', async () => {
  const cases: [file: Uint8Array, message: RegExp][] = [
    [new Uint8Array(7), /^dir\/m\.safetensors is damaged: it has 7 bytes, fewer than the 8 .*; download it again$/],
    [withHeader('{}', 0, 3n), /its header is said to have 3 bytes, more than the 2 that follow/],
    [
      withHeader('{}', 0, 2n ** 64n - 1n),
      /have 18446744073709551615 bytes, more than the 100000000 that the format allows/,
    ],
    [withHeader(Uint8Array.of(0x7b, 0xff), 0), /its header of 2 bytes is not valid UTF-8/],
    [withHeader(`{"a":{${u8}}`), /is not what safetensors allows: expected ',' or '}' \(at character 52\)/],
    [withHeader(`{"a":{${u8}},"a":{${u8}}}`), /the key "a" is repeated/],
    [withHeader('{"a":{"dtype":"U8","shape":[4]}}'), /the tensor "a" lacks its dtype, shape or data_offsets/],
    [withHeader(`{"a":{${u8.replace('U8', 'Q4')}}}`), /the tensor "a" has the unknown dtype "Q4"/],
    [withHeader(`{"a":{${u8.replace('0,4', '0,4,4')}}}`), /"a" has 3 data_offsets instead of 2/],
    [withHeader(`{"a":{${u8.replace('[4]', '[4.0]')}}}`), /expected an unsigned integer below 2\^64/],
    [
      withHeader(`{"a":{${u8.replace('[4]', '[5]')}}}`),
      /tensor "a" \(U8 \[5\]\) needs 5 bytes and its data_offsets hold 4/,
    ],
    [
      withHeader(`{"a":{${u8.replace('[4]', '[4294967296,4294967296]')}}}`),
      /\(U8 \[4294967296, 4294967296\]\) has more bits than/,
    ],
    [
      withHeader(`{"a":{${u8.replace('U8', 'F4').replace('[4]', '[7]')}}}`),
      /\(F4 \[7\]\) does not end at a whole byte/,
    ],
    [
      withHeader(`{"a":{${u8.replace('0,4', '1,5')}}}`, 5),
      /"a" has data_offsets \[1, 5\] where 0 must follow: there is a hole/,
    ],
    [
      withHeader(`{"a":{${u8}},"b":{${u8.replace('0,4', '3,7')}}}`, 7),
      /"b" has data_offsets \[3, 7\] where 4 .* tensors overlap/,
    ],
    [withHeader(`{"a":{${u8.replace('0,4', '4,0')}}}`), /data_offsets \[4, 0\]: they end before they begin/],
    [withHeader(`{"a":{${u8}}}`, 3), /has 64 of 65 bytes, 1 fewer than its header says \(an incomplete download\)/],
    [withHeader(`{"a":{${u8}}}`, 6), /has 67 bytes instead of 65, 2 behind its last tensor/],
  ]
  for (const [file, message] of cases)
    await assert.rejects(read(file), error => matches(error, message), String(message))
})

test('a file of another kind is refused by what it is', async () => {
  const cases: [start: string, message: RegExp][] = [
    ['GGUF\x03\0\0\0', /is a GGUF file: tutti reads safetensors; download the original model/],
    ['version https://git-lfs.github.com/spec/v1\noid', /is a Git LFS pointer, .* run "git lfs pull"/],
    ['PK\x03\x04\x14\0\0\0', /is a zip archive/],
    ['<!DOCTYPE html><html>', /is a web page/],
    ['<html lang="en">', /is a web page/],
  ]
  for (const [start, message] of cases) {
    const file = Uint8Array.from({ length: 200 }, (_, i) => start.charCodeAt(i) || 0)
    await assert.rejects(read(file), error => matches(error, message), start)
  }
})

function matches(error: unknown, message: RegExp): boolean {
  assert.ok(error instanceof CheckpointError, String(error))
  assert.match(error.message, message)
  return true
}
