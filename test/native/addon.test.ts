import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Worker } from 'node:worker_threads'
import { loadNative, type Native, type NativeDevice } from '../../src/device/native.node.ts'

const loaded = loadNative()
const skip = typeof loaded === 'string' ? loaded : false
const native = loaded as Native
const folder = mkdtempSync(join(tmpdir(), 'tutti-addon-'))
after(() => rmSync(folder, { recursive: true, force: true }))

const add = 8
const open = (threads = 2): NativeDevice => native.open({ level: native.levels()[0], threads, pin: false })
const floats = (...values: number[]) => new Uint8Array(Float32Array.from(values).buffer)
/** A program of some milliseconds, or with `times` of any length: zeros added to zeros. */
const additions = (length: number, times: number) =>
  Float64Array.from(Array.from({ length: times }, () => [add, 0, 0, length, length * 4]).flat())

function file(name: string, bytes: Uint8Array): string {
  const path = join(folder, name)
  writeFileSync(path, bytes)
  return path
}

test('is there where the project is tested as a whole', { skip: process.env.CI ? false : 'not in CI' }, () => {
  assert.equal(skip, false)
})

describe('the addon', { skip }, () => {
  test('runs a program and gives its result', async () => {
    const device = open()
    const table = native.matrix(device, 'F32', [1, 2], 2, [floats(1, 2), floats(3, 4, 5, 6)])
    const words = Float64Array.of(1, table, 0, 3, 2, 0, 1, add, 0, 0, 6, 64)
    assert.deepEqual(await native.submit(device, words, 128, 64, 6).done, Float32Array.of(10, 12, 2, 4, 6, 8))
    assert.deepEqual(await native.submit(device, new Float64Array(0), 0, 0, 0).done, new Float32Array(0))
    native.close(device)
  })

  test('passes end in the order of their submission, and a stopped one gives nothing', async () => {
    const device = open()
    const order: number[] = []
    const runs = [300, 1, 300, 1].map(times => native.submit(device, additions(2 ** 18, times), 2 ** 21, 0, 1))
    native.stop(device, runs[0].pass)
    native.stop(device, runs[2].pass)
    for (const { pass, done } of runs) done.then(() => order.push(pass))
    const results = await Promise.all(runs.map(run => run.done))
    assert.deepEqual(order, [1, 2, 3, 4])
    assert.deepEqual(
      results.map(result => result?.length),
      [undefined, 1, undefined, 1],
    )
    native.stop(device, runs[1].pass) // it has ended: nothing happens
    assert.throws(() => native.stop(device, 99), /RangeError: there is no pass 99/)
    native.close(device)
  })

  test('an urgent program interrupts a long one and overtakes what waits, and all give what they give alone', async () => {
    const device = open()
    const table = native.matrix(device, 'F32', [2], 4, [floats(1, 2, 3, 4, 5, 6, 7, 8)])
    /** A row of the table, doubled `times` times in the middle of much work; then the row again. */
    const doubled = (row: number, times: number, work: Float64Array) => {
      const at = 2 ** 23 // behind what the work uses
      const doublings = Array.from({ length: times }, () => [add, at, at, 4, at]).flat()
      return Float64Array.of(1, table, at, 1, row, ...work, ...doublings)
    }
    const submit = (words: Float64Array, urgent: boolean) =>
      native.submit(device, words, 2 ** 23 + 64, 2 ** 23, 4, urgent)
    const idle = native.describe(device).privateBytes
    assert.deepEqual(await submit(doubled(0, 1, additions(16, 1)), true).done, Float32Array.of(2, 4, 6, 8))
    const alone = native.describe(device).privateBytes
    assert.equal(alone - idle, 2 ** 23 + 2 ** 21) // the arena: where nothing else runs, urgent passes take nothing more
    const order: string[] = []
    const said = async (name: string, { done }: { done: Promise<unknown> }) => {
      const result = await done
      order.push(name)
      return result
    }
    const results = [
      said('long', submit(doubled(1, 3, additions(2 ** 20, 400)), false)),
      said('waiting', submit(doubled(0, 3, additions(16, 1)), false)),
      said('urgent', submit(doubled(0, 2, additions(2 ** 18, 3)), true)),
      said('more urgent', submit(doubled(1, 1, additions(16, 1)), true)),
    ]
    assert.deepEqual(await Promise.all(results), [
      Float32Array.of(40, 48, 56, 64),
      Float32Array.of(8, 16, 24, 32),
      Float32Array.of(4, 8, 12, 16),
      Float32Array.of(10, 12, 14, 16),
    ])
    assert.deepEqual(order, ['urgent', 'more urgent', 'long', 'waiting'])
    // The other arena, and a MiB of scratch for each of two threads.
    assert.equal(native.describe(device).privateBytes - alone, 2 ** 23 + 2 ** 21 + 2 ** 21)
    native.close(device)
  })

  test('a suspended pass that is stopped ends right after what interrupts it', async () => {
    const device = open()
    const long = native.submit(device, additions(2 ** 20, 20_000), 2 ** 23, 0, 1)
    await sleep(5)
    const urgent = native.submit(device, additions(2 ** 20, 100), 2 ** 23, 0, 1, true)
    native.stop(device, long.pass)
    const order = await Promise.all([long.done, urgent.done.then(result => [result?.length, performance.now()])])
    assert.deepEqual([order[0], order[1][0]], [undefined, 1])
    assert.ok(performance.now() - order[1][1]! < 1000, 'the long one takes half a minute')
    native.close(device)
  })

  test('a stop ends a long pass within 100 ms', async () => {
    const device = open()
    const times: number[] = [] // on a machine that others keep busy, some stops wait for them
    for (let n = 0; n < 5; n++) {
      const run = native.submit(device, additions(2 ** 20, 20_000), 2 ** 23, 0, 1)
      await sleep(20)
      const start = performance.now()
      native.stop(device, run.pass)
      assert.equal(await run.done, undefined)
      times.push(performance.now() - start)
    }
    assert.ok(Math.min(...times) < 100, `${times.map(Math.round)} ms`)
    native.close(device)
  })

  test('maps a file once for each path, and reads what lies there', async () => {
    const device = open()
    const path = file('weights', Buffer.concat([Buffer.from([0, 0, 0]), floats(1, 2, 3, 4)]))
    const { map, length } = native.map(device, path)
    assert.equal(length, 19)
    assert.deepEqual(native.map(device, path), { map, length })
    renameSync(file('other', floats(9)), path) // replaced, as files are: the mapping stays
    assert.equal(await native.populate(device, map, 0, length).done, undefined)
    const table = native.matrix(device, 'F32', [2], 2, [{ map, begin: 3, length: 16 }]) // at an odd address
    const words = Float64Array.of(1, table, 0, 2, 1, 0)
    assert.deepEqual(await native.submit(device, words, 64, 0, 4).done, Float32Array.of(3, 4, 1, 2))
    assert.throws(() => native.map(device, folder), /is no regular file/)
    assert.throws(() => native.map(device, join(folder, 'missing')), /cannot be mapped: No such file/)
    assert.throws(() => native.map(device, file('empty', new Uint8Array(0))), /is empty/)
    assert.throws(() => native.populate(device, map, 10, 10), /10 bytes from byte 10 on reach outside .* 19/)
    native.close(device)
  })

  test('a matrix of 8 bits is the same when its bytes come back from a file', async () => {
    const device = open()
    const [rows, cols] = [40, 70]
    const bytes = Uint8Array.from({ length: rows * cols * 2 }, (_, i) => (i % 2 ? 0x3f : (i * 37) & 255)) // bfloat16
    const source = native.matrix(device, 'BF16', [rows], cols, [bytes])
    const made = (await native.quantize(device, source).done)!
    const codes = new Uint8Array(3 * 3 * 544)
    native.readCodes(device, made, 0, codes.subarray(0, 1000))
    native.readCodes(device, made, 1000, codes.subarray(1000))
    const run = (matrix: number) => {
      const words = Float64Array.of(1, source, 0, 1, 5, 3, 0, 1, matrix, -1, 320)
      return native.submit(device, words, 1024, 320, rows).done
    }
    const sum = await native.checksum(device, made).done
    for (const begin of [64, 63]) {
      // Where it lies at a multiple of 64, and where it has to be copied.
      const path = file(`codes-${begin}`, Buffer.concat([Buffer.alloc(begin), codes]))
      const { map } = native.map(device, path)
      const kept = native.matrix(device, 'Q8', [rows], cols, [{ map, begin, length: codes.length }])
      assert.equal(await native.checksum(device, kept).done, sum)
      assert.deepEqual(await run(kept), await run(made))
    }
    codes[4000] ^= 1
    const other = native.matrix(device, 'Q8', [rows], cols, [codes])
    assert.notEqual(await native.checksum(device, other).done, sum)
    native.close(device)
  })

  test('the first scale that is no number is found, wherever it lies', async () => {
    const device = open()
    const [experts, rows, cols] = [3, 5000, 320]
    const scales = new Uint8Array(experts * rows * 10)
    const find = () => {
      const blocks = new Uint8Array(scales.length * 16)
      return native.findNan(device, native.mxfp4(device, experts, rows, cols, blocks, scales)).done
    }
    assert.equal(await find(), -1)
    for (const at of [scales.length - 1, 70_000, 3]) {
      scales[at] = 255
      assert.equal(await find(), at)
    }
    native.close(device)
  })

  test('mapped bytes of which few are read are read all the same', async () => {
    const device = open()
    const { map, length } = native.map(device, file('table', floats(...Array.from({ length: 8192 }, (_, i) => i))))
    native.sparse(device, map, 10, length - 10)
    const table = native.matrix(device, 'F32', [4096], 2, [{ map, begin: 0, length }])
    assert.deepEqual(
      await native.submit(device, Float64Array.of(1, table, 0, 1, 4000), 64, 0, 2).done,
      Float32Array.of(8000, 8001),
    )
    assert.throws(() => native.sparse(device, map, 1, length), /reach outside/)
    native.close(device)
  })

  test('refuses what is wrong with the numbers, and goes on', async () => {
    const device = open()
    const f32 = native.matrix(device, 'F32', [2], 4, [new Uint8Array(32)])
    const page = native.newPage(device, 100)
    const wide = native.newPage(device, 300) // 64 tokens of one head with one number take 256
    const wrong: [() => unknown, RegExp][] = [
      [
        () => native.open({ level: 'sse9', threads: 1, pin: false }),
        /RangeError: there is no level sse9 here, but .*baseline/,
      ],
      [() => native.open({ level: 'baseline', threads: 4096, pin: false }), /RangeError: threads is 4096/],
      [() => native.open({ level: 'baseline', threads: 1.5, pin: false }), /RangeError: threads is 1.5/],
      [() => native.describe({} as NativeDevice), /TypeError: this is no device/],
      [() => native.describe(undefined as unknown as NativeDevice), /TypeError: this is no device/],
      [() => native.matrix(device, 'F16' as 'F32', [1], 1, [floats(1)]), /RangeError: dataType is F16/],
      [() => native.matrix(device, 'F32', [2], 4, [new Uint8Array(31)]), /RangeError: part 0 has 31 bytes, and .* 32/],
      [() => native.matrix(device, 'F32', [2, 2], 4, [new Uint8Array(32)]), /RangeError: rows of 2 parts, and 1 parts/],
      [() => native.matrix(device, 'F32', [0], 4, [new Uint8Array(0)]), /RangeError: rows is 0/],
      [() => native.matrix(device, 'F32', [1], 4, [{ map: 3, begin: 0, length: 16 }]), /RangeError: there is no map 3/],
      [
        () => native.matrix(device, 'F32', [1], 1, ['x' as unknown as Uint8Array]),
        /TypeError: expected an object with map/,
      ],
      [
        () => native.mxfp4(device, 1, 2, 48, new Uint8Array(0), new Uint8Array(0)),
        /RangeError: cols is 48, no multiple/,
      ],
      [() => native.mxfp4(device, 1, 2, 32, new Uint8Array(32), new Uint8Array(3)), /RangeError: part 1 has 3 bytes/],
      [() => native.quantize(device, 7), /RangeError: there is no matrix 7/],
      [() => native.checksum(device, f32), /RangeError: there is no matrix 0 of 8 bits/],
      [() => native.findNan(device, f32), /RangeError: there is no matrix 0 of MXFP4/],
      [() => native.readCodes(device, f32, 0, new Uint8Array(1)), /RangeError: there is no matrix 0 of 8 bits/],
      [() => native.readCodes(device, f32, 0, [] as unknown as Uint8Array), /TypeError: codes are read into/],
      [
        () =>
          native.readCodes(device, native.matrix(device, 'Q8', [1], 1, [new Uint8Array(544)]), 540, new Uint8Array(5)),
        /RangeError: 5 bytes from byte 540 on reach outside a matrix of 544/,
      ],
      [
        () => native.matrix(device, 'Q8', [16, 16], 32, [new Uint8Array(544), new Uint8Array(544)]),
        /RangeError: a matrix of 8 bits has 1 part, not 2/,
      ],
      [() => native.matrix(device, 'Q8', [17], 32, [new Uint8Array(544)]), /RangeError: part 0 has 544 bytes, .* 1088/],
      [() => native.release(device, -1), /RangeError: matrix is -1/],
      [() => native.freePage(device, 5), /RangeError: there is no page 5/],
      [
        () => native.copyPage(device, page, native.newPage(device, 200)),
        /RangeError: page 0 has 100 bytes and page 2 has 200/,
      ],
      [
        () => native.readTokens(device, page, 0, 1, 1, 0, new Uint8Array(4)),
        /RangeError: 4 bytes from slot 0 on are no tokens, of 4 bytes, of a page of 100/,
      ],
      [() => native.readTokens(device, wide, 0, 1, 1, 63, new Uint8Array(8)), /RangeError: 8 bytes from slot 63 on/],
      [() => native.writeTokens(device, wide, 0, 1, 1, 65, new Uint8Array(0)), /RangeError: 0 bytes from slot 65 on/],
      [() => native.writeTokens(device, wide, 0, 1, 1, 0, new Uint8Array(3)), /RangeError: 3 bytes from slot 0 on/],
      [() => native.readTokens(device, 77, 0, 1, 1, 0, new Uint8Array(4)), /RangeError: there is no page 77/],
      [() => native.readTokens(device, wide, 3, 1, 1, 0, new Uint8Array(4)), /RangeError: there is no cache type 3/],
      [() => native.readTokens(device, wide, 0, 1, 1, 0, [] as unknown as Uint8Array), /TypeError/],
      [() => native.pageBytes(device, 2, 8, 64), /RangeError: there is no cache type 2/],
      [() => native.readMemory(device, { length: 0, huge: true }), /RangeError: length is 0/],
      [
        () => native.submit(device, [1] as unknown as Float64Array, 0, 0, 0),
        /TypeError: the program is no Float64Array/,
      ],
      [
        () => native.submit(device, Float64Array.of(10), 0, 0, 0),
        /RangeError: word 0 of the program, opcode: it is 10/,
      ],
      [
        () => native.submit(device, Float64Array.of(add, 0, 0, 16), 64, 0, 0),
        /add: out is missing, the program has 4 words/,
      ],
      [
        () => native.submit(device, Float64Array.of(add, 0, 0, 17, 0), 64, 0, 0),
        /x \[1, 17\] at byte 0 reaches outside the arena of 64/,
      ],
      [() => native.submit(device, Float64Array.of(add, 0, 4, 1, 0), 64, 0, 0), /y is 4, no multiple of 64/],
      [
        () => native.submit(device, Float64Array.of(1, f32, 0, 1, 2), 64, 0, 0),
        /token is 2, expected a whole number from 0 to 1/,
      ],
      [
        () => native.submit(device, Float64Array.of(3, 0, 1, f32, f32, 64), 128, 0, 0),
        /bias has shape \[1, 2, 4\], expected \[1, 1, 2\]/,
      ],
      [
        () => native.submit(device, new Float64Array(0), 64, 32, 9),
        /RangeError: a result of 9 float32 at byte 32 lies outside/,
      ],
      [() => native.submit(device, new Float64Array(0), 1e15, 0, 0), /RangeError: an arena of 1000000000000000 bytes/],
      [
        () => native.submit(device, new Float64Array(0), 0, 0, 0, 1 as unknown as boolean),
        /TypeError: urgent is no boolean/,
      ],
    ]
    for (const [call, error] of wrong) assert.throws(call, error)
    assert.equal((await native.submit(device, additions(16, 1), 128, 0, 16).done)?.length, 16)
    native.close(device)
  })

  test('a device that JavaScript closes while its arguments are read is not used', () => {
    const device = open()
    const part = {
      map: 0,
      length: 4,
      get begin() {
        native.close(device)
        return 0
      },
    }
    assert.throws(() => native.matrix(device, 'F32', [1], 1, [part]), /this device is closed/)
  })

  test('what is given back while a pass uses it is kept until that has ended', async () => {
    const device = open()
    const before = native.describe(device).privateBytes
    const bytes = new Uint8Array(2 ** 21).fill(64) // 0x4040: 3 in bfloat16
    const source = native.matrix(device, 'BF16', [2 ** 10], 2 ** 10, [bytes])
    const run = native.submit(device, Float64Array.of(...additions(2 ** 18, 50), 1, source, 0, 1, 5), 2 ** 21, 0, 1)
    const made = native.quantize(device, source)
    native.release(device, source)
    assert.throws(() => native.release(device, source), /there is no matrix/)
    assert.deepEqual(await run.done, Float32Array.of(3))
    native.release(device, (await made.done)!)
    assert.equal(native.describe(device).privateBytes, before + 2 ** 21) // the arena
    native.close(device)
  })

  test('a page is copied after the passes before', async () => {
    const device = open()
    const [heads, size] = [1, 2]
    const bytes = native.pageBytes(device, 0, heads, size)
    const [a, b] = [native.newPage(device, bytes), native.newPage(device, bytes)]
    const sinks = native.matrix(device, 'F32', [1], 1, [floats(-1e9)])
    const table = native.matrix(device, 'F32', [1], 6, [floats(0, 0, 1, 2, 3, 4)]) // query, key, value
    const look = (page: number, start: number, length: number, words: number[] = []) =>
      native.submit(
        device,
        Float64Array.of(
          ...words,
          1,
          table,
          0,
          1,
          0,
          5,
          0,
          1,
          sinks,
          heads,
          heads,
          size,
          0,
          0,
          64,
          1,
          0,
          1,
          start,
          0,
          length,
          0,
          1,
          page,
        ),
        2 ** 21,
        64,
        2,
      ).done
    const first = look(a, 0, 0, [...additions(2 ** 18, 20)])
    native.copyPage(device, a, b)
    native.freePage(device, a)
    const second = look(b, 0, 1) // position 0 is held: it comes from the copy
    assert.deepEqual(await first, Float32Array.of(3, 4))
    assert.deepEqual(await second, Float32Array.of(3, 4))
    native.close(device)
  })

  test('tokens of a page come out and go in, no other is touched, and not while a pass may write the page', async () => {
    const device = open()
    for (const [cache, heads, size] of [
      [0, 2, 6],
      [1, 2, 6],
      [1, 1, 40],
    ] as const) {
      const bytes = native.pageBytes(device, cache, heads, size)
      const tokenBytes = bytes / 64
      const [a, b] = [native.newPage(device, bytes), native.newPage(device, bytes)]
      const read = (page: number, begin: number, count: number) => {
        const into = new Uint8Array(count * tokenBytes)
        assert.ok(native.readTokens(device, page, cache, heads, size, begin, into))
        return into
      }
      native.writeTokens(device, b, cache, heads, size, 0, new Uint8Array(bytes)) // zeros
      native.writeTokens(
        device,
        a,
        cache,
        heads,
        size,
        0,
        Uint8Array.from({ length: bytes }, (_, i) => (i * 37) % 251),
      )
      for (const [begin, count] of [
        [0, 1],
        [63, 1],
        [5, 20],
        [33, 0],
      ]) {
        native.writeTokens(device, b, cache, heads, size, begin, read(a, begin, count))
        assert.deepEqual(read(b, begin, count), read(a, begin, count))
      }
      const untouched = read(b, 1, 4).some(byte => byte !== 0) || read(b, 25, 38).some(byte => byte !== 0)
      assert.equal(untouched, false)
    }
    const [heads, size] = [1, 2]
    const page = native.newPage(device, native.pageBytes(device, 0, heads, size))
    const sinks = native.matrix(device, 'F32', [1], 1, [floats(-1e9)])
    const table = native.matrix(device, 'F32', [1], 6, [floats(0, 0, 1, 2, 3, 4)])
    const attention = [5, 0, 1, sinks, heads, heads, size, 0, 0, 64, 1, 0, 1, 0, 0, 0, 0, 1, page]
    const words = Float64Array.of(...additions(2 ** 18, 20), 1, table, 0, 1, 0, ...attention)
    const run = native.submit(device, words, 2 ** 21, 64, 2)
    const into = new Uint8Array(8)
    assert.equal(native.readTokens(device, page, 0, heads, size, 0, into), false)
    assert.throws(() => native.writeTokens(device, page, 0, heads, size, 0, into), /Error: page \d is used by a pass/)
    await run.done
    assert.equal(native.readTokens(device, page, 0, heads, size, 0, into), true)
    assert.deepEqual(new Uint16Array(into.buffer), Uint16Array.of(0x3f80, 0x4000, 0x4040, 0x4080)) // 1, 2, 3, 4 in bfloat16
    native.close(device)
  })

  test('a closed device refuses politely, and its passes end without a result', async () => {
    const device = open()
    const runs = [1, 2, 3].map(() => native.submit(device, additions(2 ** 20, 5_000), 2 ** 23, 0, 1))
    native.close(device)
    assert.deepEqual(await Promise.all(runs.map(run => run.done)), [undefined, undefined, undefined])
    assert.throws(() => native.describe(device), /Error: this device is closed/)
    assert.throws(() => native.newPage(device, 64), /Error: this device is closed/)
    native.stop(device, runs[0].pass)
    native.close(device)
  })

  test('two devices work side by side', async () => {
    const devices = [open(), open(1), open()]
    const runs = devices.flatMap(device =>
      [1, 2, 3].map(n => {
        const table = native.matrix(device, 'F32', [1], 16, [floats(...Array<number>(16).fill(n))])
        const words = Float64Array.of(1, table, 0, 1, 0, ...Array.from({ length: 8 }, () => [add, 0, 0, 16, 0]).flat())
        return native.submit(device, words, 64, 0, 1).done
      }),
    )
    const results = (await Promise.all(runs)).map(result => result![0] / 256)
    assert.deepEqual(results, [1, 2, 3, 1, 2, 3, 1, 2, 3])
    for (const device of devices) native.close(device)
  })

  test('an idle device uses no CPU', async () => {
    const device = open(4)
    await native.submit(device, additions(2 ** 16, 10), 2 ** 20, 0, 1).done
    await sleep(5)
    const before = process.cpuUsage()
    await sleep(400)
    const { user, system } = process.cpuUsage(before)
    assert.ok(user + system < 40_000, `${(user + system) / 1000} ms of 400`)
    native.close(device)
  })

  test('a process lives while something is in flight, and no longer', async () => {
    const program = `
      import { loadNative } from './src/device/native.node.ts'
      const native = loadNative()
      const device = native.open({ level: 'baseline', threads: 2, pin: false })
      if (process.argv[1] === 'idle') console.log('idle')
      else native.readMemory(device, { length: 2 ** 24, huge: false }).done.then(() => console.log('done'))`
    for (const what of ['idle', 'done']) {
      const args = ['--conditions=tutti-source', '--input-type=module', '-e', program, what]
      const cwd = fileURLToPath(new URL('../..', import.meta.url))
      const { stdout } = await promisify(execFile)(process.execPath, args, { cwd, timeout: 20_000 })
      assert.equal(stdout, `${what}\n`)
    }
  })

  test('a device that nobody closes goes with its handle', async () => {
    for (let i = 0; i < 3; i++) open()
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as () => void
    const deadline = performance.now() + 5000
    while ((await threadsOfDevices()) > 0 && performance.now() < deadline) {
      collect()
      await sleep(5)
    }
    assert.equal(await threadsOfDevices(), 0)
  })

  test('a worker is terminated in mid-pass a hundred times', async () => {
    const path = file('large', new Uint8Array(2 ** 24))
    const kinds = ['read', 'populate', 'quantize', 'program']
    const terminate = async (n: number) => {
      const worker = new Worker(new URL('addon-worker.ts', import.meta.url), {
        workerData: { kind: kinds[n % kinds.length], path },
        execArgv: ['--conditions=tutti-source', '--disable-warning=ExperimentalWarning'],
      })
      await once(worker, 'message')
      await sleep(n % 7)
      await worker.terminate()
    }
    for (let n = 0; n < 100; n += 4) await Promise.all([0, 1, 2, 3].map(i => terminate(n + i)))
    assert.equal(await threadsOfDevices(), 0)
  })
})

/** How many threads of devices this process has; 0 where the system does not tell. */
async function threadsOfDevices(): Promise<number> {
  const tasks = await readdir('/proc/self/task').catch(() => [])
  const names = tasks.map(task => readFile(`/proc/self/task/${task}/comm`, 'utf8').catch(() => ''))
  return (await Promise.all(names)).filter(name => name === 'tutti\n').length
}
