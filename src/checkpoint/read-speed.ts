import type { StoredTensor } from './checkpoint.ts'

const maxReads = 32
const readBytes = 2 ** 20
const maxMs = 1000

/**
 * Bytes a second at which tensors come from where they are stored, by short reads within many of them. What happens to
 * lie in memory comes faster, so the slower half counts; where all of it does, that is not the speed of the disk.
 */
export async function readSpeed(tensors: readonly StoredTensor[]): Promise<number> {
  const step = Math.max(1, tensors.length / maxReads)
  const speeds: number[] = []
  const begun = performance.now()
  for (let i = 0; i < tensors.length && performance.now() - begun < maxMs; i += step) {
    const tensor = tensors[Math.floor(i)]
    const end = Math.min(tensor.byteLength, Math.floor(tensor.byteLength / 2) + readBytes) // not where headers were read
    const start = performance.now()
    const { length } = await tensor.read(Math.max(0, end - readBytes), end)
    speeds.push(length / (performance.now() - start))
  }
  speeds.sort((a, b) => a - b)
  const slower = speeds.slice(0, Math.ceil(speeds.length / 2))
  return (1000 * slower.length) / slower.reduce((sum, speed) => sum + 1 / speed, 0)
}
