import { decodeBfloat16, encodeBfloat16 } from '../base/bfloat16.ts'
import { seededRandom } from '../base/random.ts'
import { encodeMxfp4 } from '../checkpoint/mxfp4.ts'
import { CpuDevice } from '../device/cpu.node.ts'
import { loadNative } from '../device/native.node.ts'
import { ReferenceDevice } from '../device/reference.ts'
import type { Device, Ops } from './ops.ts'
import type { StoredTensor, Tensor } from './tensor.ts'

export interface TestedDevice {
  readonly name: string
  readonly open: () => Device
  /** The most that its matrix products may be off (NMSE) from float64 sums of the same stored numbers. */
  readonly products: number
}

/** Every device that this machine has, the cpu device at every level of instructions; a kernel's cases run on each. */
export const devices: readonly TestedDevice[] = [
  { name: 'reference', open: () => new ReferenceDevice(), products: 1e-12 }, // rounding of results alone
  ...cpuDevices(),
]

function cpuDevices(): TestedDevice[] {
  const native = loadNative()
  if (typeof native === 'string') return []
  return native.levels().flatMap(level => [
    // float32 sums in another order
    { name: `cpu ${level}, exact`, open: () => new CpuDevice(native, { level, precision: 'exact' }), products: 1e-11 },
    // int8 activations with a scale per 32: 3e-5 for normal numbers, more with outliers
    { name: `cpu ${level}`, open: () => new CpuDevice(native, { level, threads: 3 }), products: 5e-4 },
  ])
}

/** Runs ops on a device and gives the numbers of what they return. */
export async function onDevice(open: () => Device, work: (ops: Ops, device: Device) => Promise<Tensor>) {
  const device = open()
  const ops = device.begin()
  try {
    return await ops.read(await work(ops, device))
  } finally {
    ops.end()
    device.close()
  }
}

/** Numbers with a standard deviation of about 1, the same for the same seed; every 97th is an outlier 30 times as large. */
export function noise(length: number, seed: number): Float32Array {
  const random = seededRandom(seed)
  const uniform = () => random() + random() + random() + random() - 2
  return Float32Array.from({ length }, (_, i) => uniform() * 1.7 * (i % 97 === 96 ? 30 : 1))
}

export function stored(name: string, shape: number[], values: Float32Array | Uint16Array | Uint8Array): StoredTensor {
  const dataType = values instanceof Float32Array ? 'F32' : values instanceof Uint16Array ? 'BF16' : 'U8'
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  return { name, dataType, shape, byteLength: bytes.length, read: async (begin, end) => bytes.slice(begin, end) }
}

/** Random bfloat16 weights, as stored and as the numbers that they stand for. */
export function weights(shape: number[], seed: number): { stored: StoredTensor; values: Float32Array } {
  const length = shape.reduce((a, b) => a * b)
  const words = encodeBfloat16(noise(length, seed))
  const values = new Float32Array(Uint32Array.from(words, word => word << 16).buffer)
  return { stored: stored(`weights ${shape.join(' × ')}`, shape, words), values }
}

/** The nearest numbers that bfloat16 has. */
export function rounded(values: Float32Array): Float32Array {
  return decodeBfloat16(encodeBfloat16(values))
}

/** Random MXFP4 matrices [experts, rows, width], some groups of them zero, as stored and as numbers. */
export function mxfp4Weights(shape: [number, number, number], seed: number) {
  const [numExperts, rows, width] = shape
  const raw = noise(numExperts * rows * width, seed)
  for (let at = 0; at < raw.length; at += 32 * 13) raw.fill(0, at, at + 32)
  const { blocks, scales } = encodeMxfp4(raw)
  // Zero groups keep scale 0; some of them get codes that are not zero, which stand for less than 2⁻¹²⁴.
  for (let group = 0; group < scales.length; group += 26) if (scales[group] === 0) blocks[group * 16] = 0x71
  return {
    blocks: stored('blocks', [numExperts, rows, width / 32, 16], blocks),
    scales: stored('scales', [numExperts, rows, width / 32], scales),
    /** By the definition, code by code. */
    value(expert: number, row: number, column: number): number {
      const group = Math.floor(((expert * rows + row) * width + column) / 32)
      const byte = blocks[group * 16 + Math.floor((column % 32) / 2)]
      const code = column % 2 === 0 ? byte & 15 : byte >> 4
      const magnitude = [0, 0.5, 1, 1.5, 2, 3, 4, 6][code & 7]
      return (code & 8 ? -1 : 1) * magnitude * 2 ** (scales[group] - 127)
    },
  }
}

/** An activation on the device: the rows of an embedding that is just these numbers. */
export async function activation(ops: Ops, device: Device, values: Float32Array, width: number): Promise<Tensor> {
  const numRows = values.length / width
  const table = await device.load([stored('activation', [numRows, width], values)])
  return ops.embedding(
    Int32Array.from({ length: numRows }, (_, i) => i),
    table,
  )
}

/** Σ (got − right)² / Σ right²; Infinity where one is not a number and the other is. */
export function nmse(got: ArrayLike<number>, right: ArrayLike<number>): number {
  if (got.length !== right.length) throw new RangeError(`${got.length} numbers, expected ${right.length}`)
  let errors = 0
  let squares = 0
  for (let i = 0; i < right.length; i++) {
    errors += (got[i] - right[i]) ** 2
    squares += right[i] ** 2
  }
  return Number.isNaN(errors) ? Infinity : errors === 0 ? 0 : errors / squares
}

/**
 * Prints how fast an op runs on each device at the shapes of gpt-oss. `prepare` puts its inputs there and gives the call
 * to be timed; `work` is what one call does, in `unit`s.
 */
export async function bench(
  name: string,
  work: number,
  unit: 'multiply-adds' | 'numbers',
  prepare: (ops: Ops, device: Device) => Promise<() => Tensor>,
): Promise<void> {
  for (const { name: deviceName, open } of devices) {
    const device = open()
    const ops = device.begin()
    const call = await prepare(ops, device)
    const times: number[] = []
    const until = performance.now() + 1000
    while (times.length < 3 || performance.now() < until) {
      const start = performance.now()
      await ops.read(call())
      times.push(performance.now() - start)
    }
    ops.end()
    device.close()
    const median = times.sort((a, b) => a - b)[times.length >> 1]
    const rate = (work / median / 1e6).toPrecision(3)
    console.log(`${name.padEnd(44)} ${deviceName.padEnd(10)} ${median.toFixed(2).padStart(9)} ms  ${rate} G ${unit}/s`)
  }
}

/** Random MXFP4 matrices, stored only: quick to make at full size. */
export function rawMxfp4(
  shape: [number, number, number],
  seed: number,
): { blocks: StoredTensor; scales: StoredTensor } {
  const [numExperts, rows, width] = shape
  const random = seededRandom(seed)
  const groups = (numExperts * rows * width) / 32
  const blocks = Uint8Array.from({ length: groups * 16 }, () => random() * 256)
  const scales = Uint8Array.from({ length: groups }, () => 118 + random() * 4)
  return {
    blocks: stored('blocks', [numExperts, rows, width / 32, 16], blocks),
    scales: stored('scales', [numExperts, rows, width / 32], scales),
  }
}
