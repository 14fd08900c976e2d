// A thread of JavaScript that keeps a device busy until it is terminated (addon.test.ts).
import { parentPort, workerData } from 'node:worker_threads'
import { loadNative, type Native } from '../../src/device/native.node.ts'

const native = loadNative() as Native
const device = native.open({ level: native.levels()[0], threads: 2, pin: false })
const { kind, path } = workerData as { kind: string; path: string }
const passes: Record<string, () => Promise<unknown>> = {
  read: () => native.readMemory(device, { length: 2 ** 26, huge: true }).done,
  populate: () => {
    const { map, length } = native.map(device, path)
    return native.populate(device, map, 0, length).done
  },
  quantize: async () => {
    const [rows, cols] = [2048, 1024]
    const source = native.matrix(device, 'BF16', [rows], cols, [new Uint8Array(rows * cols * 2)])
    const made = await native.quantize(device, source).done
    native.release(device, source)
    if (made !== undefined) native.release(device, made)
  },
  program: () => {
    const length = 2 ** 20
    const words = Array.from({ length: 200 }, () => [8, 0, 0, length, length * 4]).flat()
    return native.submit(device, Float64Array.from(words), length * 8, length * 4, 1000).done
  },
}
const run = passes[kind]
const second = kind === 'program' ? run : passes.program
parentPort!.postMessage('ready')
for (;;) await Promise.all([run(), second(), run()])
