import type { StoredTensor } from './checkpoint.ts'

const maxReads = 32
const readBytes = 2 ** 20
const maxMs = 1000

/** Bytes a second of an ordinary NVMe disk, for where none can be measured. */
export const assumedReadSpeed = 2e9

/**
 * Bytes a second at which tensors come from where they are stored, by short reads anywhere within many of them. What
 * happens to lie in memory comes faster, so the slower half counts; where all of it does, that is not the speed of the
 * disk. Undefined where nothing but zeros came: files have holes where they were never written, which no disk holds.
 */
export async function readSpeed(tensors: readonly StoredTensor[]): Promise<number | undefined> {
  const step = Math.max(1, tensors.length / maxReads)
  const speeds: number[] = []
  const begun = performance.now()
  for (let i = 0; i < tensors.length && performance.now() - begun < maxMs; i += step) {
    const tensor = tensors[Math.floor(i)]
    // At random: what the last measurement read lies in memory now.
    const from = Math.floor(Math.random() * Math.max(0, tensor.byteLength - readBytes))
    const start = performance.now()
    const bytes = await tensor.read(from, Math.min(tensor.byteLength, from + readBytes))
    const speed = bytes.length / (performance.now() - start)
    if (!isHole(bytes)) speeds.push(speed)
  }
  if (speeds.length === 0) return undefined
  speeds.sort((a, b) => a - b)
  const slower = speeds.slice(0, Math.ceil(speeds.length / 2))
  return (1000 * slower.length) / slower.reduce((sum, speed) => sum + 1 / speed, 0)
}

function isHole(bytes: Uint8Array): boolean {
  for (let i = 0; i < bytes.length; i += 61) if (bytes[i] !== 0) return false
  return true
}
