import { spawn } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { CheckpointError } from '../../src/base/errors.ts'
import { seededRandom } from '../../src/base/random.ts'
import { openFolder } from '../../src/checkpoint/source.node.ts'
import { listModels, verifyModels } from '../../src/hub/models.ts'
import type { PullOptions } from '../../src/hub/pull.ts'
import { openChecked } from '../../src/hub/records-load.ts'
import type { Row } from '../board/row.ts'
import { watchDisk } from './disk.ts'
import type { DownloadRun } from './download-run.ts'
import { filesIn, isShard, type ModelFiles, modelFiles, repeats, wrongFiles } from './model.ts'
import { type Answer, type Asked, sha256 } from './server.ts'
import { partBytes, pullWhole, recordFolderOf, type Trial, withTrial } from './trial.ts'

type Random = () => number
/** How many cases there were, and what went wrong in each. */
interface Found {
  n: number
  failures: string[]
}

/** A download asks for as many parts at once: what was under way is fetched again, and nothing else. */
const numConnections = 4
const counts = {
  long: { kill: 200, once: 300, always: 150, said: 100, partial: 300, disk: 150, verify: 1000, load: 1000 },
  fast: { kill: 40, once: 48, always: 12, said: 20, partial: 40, disk: 20, verify: 100, load: 40 },
  quick: { kill: 12, once: 24, always: 6, said: 20, partial: 20, disk: 20, verify: 24, load: 15 },
}
const parts = {
  kill,
  once: flipOnce,
  always: flipAlways,
  said: flipWhatIsSaid,
  partial: flipPartial,
  disk: flipOnDisk,
  verify: flipAndVerify,
  load: flipAndLoad,
}
const download = 'src/hub/download.ts'
const records = 'src/hub/records.ts'
const partMap = 'src/hub/part-map.ts'

export const row: Row = {
  row: 4,
  title: 'download: kill -9 and power cuts at any point, bits that flip on the wire and on the disk',
  async run({ long, quick, part, seed }) {
    const asked = Object.entries(parts).filter(([name]) => part === undefined || part === name)
    const total: Found = { n: 0, failures: [] }
    for (const [name, run] of asked) {
      const count = counts[long ? 'long' : quick ? 'quick' : 'fast'][name as keyof typeof parts]
      const { n, failures } = await run(count, seed)
      if (n !== count) failures.push(`${n} cases instead of ${count}`)
      total.n += n
      total.failures.push(...failures.map(failure => `${name}: ${failure}`))
    }
    return total
  },
  planted: [
    {
      file: download,
      search: 'if (hash !== file.etag) onChecked(-checked)\n    return hash === file.etag',
      replace: 'return true',
      what: 'a download gets its name whatever its hash is',
      part: 'once',
    },
    {
      file: download,
      search: 'if (error instanceof WrongContent || attempt.isEmpty)',
      replace: 'if (attempt.isEmpty)',
      what: 'what the server sent wrong stays in a partial file',
      part: 'always',
    },
    {
      file: download,
      search: 'await this.#sync()\n    await this.#map',
      replace: 'await this.#map',
      what: 'a part is recorded before the disk has it',
      part: 'kill',
    },
    {
      file: partMap,
      search: 'const hashes = readHashes(path, fileBytes, partBytes)\n    const map',
      replace: 'const hashes = new Map<number, string>()\n    const map',
      what: 'a download begins from zero when it was interrupted',
      part: 'kill',
    },
    {
      file: 'src/hub/pull.ts',
      search: 'await this.#placeAll(all)\n    await cache.writeRef(revision, commit)',
      replace: 'await cache.writeRef(revision, commit)\n    await this.#placeAll(all)',
      what: 'a revision stands for a model that is not there yet',
      part: 'kill',
    },
    {
      file: 'src/hub/file-lock.ts',
      search: 'if (holder ? !isAlive(holder) :',
      replace: 'if (holder ? false :',
      what: 'the lock of a process that was killed stays',
      part: 'kill',
    },
    {
      file: download,
      search: 'const bad = await this.#changedParts()',
      replace: 'const bad: number[] = []',
      what: 'parts are not compared with their record',
      part: 'disk',
    },
    {
      file: download,
      search: 'if (hash !== this.#map.hashOf(part)) changed.push(part)',
      replace: 'if (hash === this.#map.hashOf(part)) changed.push(part)',
      what: 'the right parts are fetched again instead of the wrong ones',
      part: 'partial',
    },
    {
      file: download,
      search: 'hasherOf(file), signal, onChecked)\n    return hash === file.etag',
      replace: 'hasherOf(file), signal, onChecked)\n    return hash.length === file.etag.length',
      what: 'a file that is there is known by its size',
      part: 'verify',
    },
    {
      file: 'src/hub/models.ts',
      search: 'hashed.get(blob) ?? (await hashFile(',
      replace: 'hashed.get(blob) ?? known ?? (await hashFile(',
      what: 'verifying believes what was recorded',
      part: 'verify',
    },
    {
      file: records,
      search: 'a.mtime === b.mtime && ',
      replace: '',
      what: 'loading does not look at the time',
      part: 'load',
    },
    {
      file: records,
      search: ' && a.inode === b.inode',
      replace: '',
      what: 'loading does not look at the inode',
      part: 'load',
    },
  ],
}

/* ---- kill -9 */

/**
 * The ways to end: by the process itself between two of its calls (a write is cut in half), from outside when the server
 * gets a request, or with the power, so that what was not synced may be lost.
 */
const ways = ['call', 'request', 'power'] as const

async function kill(count: number, seed: number): Promise<Found> {
  const files = modelFiles([12 * partBytes + 77, 3 * partBytes], seed)
  const whole = await countWhole(files)
  const random = seededRandom(seed)
  const cases = Array.from({ length: count }, (_, n) => ({
    way: ways[n % ways.length],
    at: (n + random()) / count,
    seed: seed * 1000 + n,
  }))
  const found = await inPairs(cases, async one => {
    const failures = await withTrial(files, trial => killOnce(trial, one, whole))
    return failures.map(failure => `${one.way} at ${one.at.toFixed(3)}: ${failure}`)
  })
  return { n: found.length, failures: found.flat() }
}

/** Calls of the file system and requests in a download that nothing interrupts. */
async function countWhole(files: ModelFiles): Promise<{ calls: number; requests: number }> {
  return withTrial(files, async trial => {
    let calls = 0
    const unwatch = watchDisk(trial.home, { before: () => void calls++ })
    await trial.pull()
    unwatch()
    return { calls, requests: trial.server.log.length }
  })
}

interface Kill {
  way: (typeof ways)[number]
  /** From 0, the begin, to 1, the end. */
  at: number
  seed: number
}

async function killOnce(trial: Trial, { way, at, seed }: Kill, whole: { calls: number; requests: number }) {
  const { home, server } = trial
  // Chunks come in other sizes each time, and there may be fewer calls: then it ended before its time.
  for (let numCalls = Math.floor(at * whole.calls); ; numCalls = Math.floor(0.9 * numCalls)) {
    const run: DownloadRun = { home, endpoint: server.url, partBytes }
    if (way !== 'request') run.numCalls = numCalls
    if (way === 'power') run.powerCut = seed
    if (await runKilled(run, trial, way === 'request' ? Math.floor(at * whole.requests) : Infinity)) break
    for (const entry of filesIn(home)) rmSync(entry)
    server.log.length = 0
  }
  ageLocks(home)
  const failures = [...wrongFiles(home, trial), ...unbacked(home)].map(wrong => `after it ${wrong}`)
  failures.push(...(await pullWhole(trial)))
  const again = repeats(server)
  if (way !== 'power' && again > numConnections) failures.push(`${again} parts were fetched again`)
  return failures
}

/** Whether the process was killed, and did not end before. */
function runKilled(run: DownloadRun, { server }: Trial, numRequests: number): Promise<boolean> {
  const program = fileURLToPath(new URL('download-run.ts', import.meta.url))
  const child = spawn(process.execPath, ['--conditions=tutti-source', program, JSON.stringify(run)], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', text => (said += text))
  server.fault = () => void (server.log.length > numRequests && child.kill('SIGKILL'))
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => {
      server.fault = undefined
      if (code) reject(new Error(`the process of row 4 failed: ${said}`))
      else resolve(signal === 'SIGKILL')
    })
  })
}

/** Parts that are recorded in a partial file's list while the file has other bytes. */
function unbacked(home: string): string[] {
  const lists = filesIn(home).filter(path => path.endsWith('.map.incomplete'))
  return lists.flatMap(list => {
    const partial = list.replace('.map.', '.tutti.')
    if (!existsSync(partial)) return [] // it has its own name already, and the list was to go next
    const bytes = readFileSync(partial)
    const parts = [...readFileSync(list, 'latin1').matchAll(/^(\d+) ([0-9a-f]{64})\n/gm)]
    const wrong = parts.filter(
      ([, part, hash]) => sha256(bytes.subarray(+part * partBytes).subarray(0, partBytes)) !== hash,
    )
    return wrong.map(([, part]) => `part ${part} is recorded in ${list}, and the disk has other bytes`)
  })
}

/** A lock whose maker was killed before it had written its name counts for 10 seconds: they are over. */
function ageLocks(home: string): void {
  const old = Date.now() / 1000 - 11
  for (const path of filesIn(home)) if (path.endsWith('.lock') && statSync(path).size === 0) utimesSync(path, old, old)
}

/** Maps in order, two at a time. */
async function inPairs<In, Out>(list: readonly In[], map: (item: In) => Promise<Out>): Promise<Out[]> {
  const results: Out[] = []
  let next = 0
  const work = async () => {
    while (next < list.length) {
      const n = next++
      results[n] = await map(list[n])
    }
  }
  await Promise.all([work(), work()])
  return results
}

/* ---- bits that flip */

const numShards = 20
const shardParts = 6
const manyShards = (seed: number) => modelFiles(Array(numShards).fill(shardParts * partBytes - 100), seed)

const draw = (below: number, random: Random) => Math.floor(below * random())

function flipped(bytes: Buffer, bit: number): Buffer {
  const copy = Buffer.from(bytes)
  copy[bit >> 3] ^= 1 << (bit & 7)
  return copy
}

const isBody = ({ at }: Asked) => at === 'link' || at === 'small'

/** Calls `batch` until there were `count` cases, asking each time for as many as it has room for. */
async function inBatches(count: number, size: number, batch: (size: number, turn: number) => Promise<Found>) {
  const found: Found = { n: 0, failures: [] }
  for (let turn = 0; found.n < count; turn++) {
    const { n, failures } = await batch(Math.min(size, count - found.n), turn)
    found.n += n
    found.failures.push(...failures)
    if (n === 0) break
  }
  return found
}

/** A bit flips on the wire in one answer for a file, and the next time not. */
async function flipOnce(count: number, seed: number): Promise<Found> {
  const files = manyShards(seed)
  const random = seededRandom(seed)
  return inBatches(count, Object.keys(files).length, size =>
    withTrial(files, async trial => {
      const chosen = Object.keys(files).slice(0, size)
      const which = new Map(chosen.map(path => [path, isShard(path) ? draw(shardParts, random) : 0]))
      let n = 0
      trial.server.fault = (answer, asked) => {
        if (!isBody(asked) || asked.before !== which.get(asked.path)) return
        answer.body = flipped(answer.body, draw(8 * answer.body.length, random))
        n++
      }
      return { failures: await pullWhole(trial), n }
    }),
  )
}

/** The same bit of a file flips on the wire whenever it passes. */
async function flipAlways(count: number, seed: number): Promise<Found> {
  const files = modelFiles([3 * partBytes - 100], seed)
  const random = seededRandom(seed)
  return inBatches(count, 1, () =>
    withTrial(files, async trial => {
      const path = Object.keys(files)[draw(Object.keys(files).length, random)]
      const bit = draw(8 * files[path].length, random)
      trial.server.fault = (answer, asked) => {
        if (isBody(asked) && asked.path === path) answer.body = flipInRange(answer, bit)
      }
      const error = await trial.pull().catch(error => error)
      const failures = wrongFiles(trial.home, trial)
      if (!(error instanceof CheckpointError) || !error.message.includes(path)) failures.push(`${path}: ${error}`)
      failures.push(...filesIn(trial.home).filter(path => path.endsWith('.incomplete')))
      trial.server.fault = undefined
      return { n: 1, failures: [...failures, ...(await pullWhole(trial))] }
    }),
  )
}

/** Flips a bit of a file in an answer that has a range of it. */
function flipInRange({ headers, body }: Answer, bit: number): Buffer {
  const [, begin = '0'] = /^bytes (\d+)-/.exec(String(headers['content-range'])) ?? []
  const inBody = bit - 8 * Number(begin)
  return inBody >= 0 && inBody < 8 * body.length ? flipped(body, inBody) : body
}

/** A bit flips in what the hub says of its files. What that brings may fail, but nothing wrong gets a name. */
async function flipWhatIsSaid(count: number, seed: number): Promise<Found> {
  const files = modelFiles([3 * partBytes - 100], seed)
  const random = seededRandom(seed)
  return inBatches(count, 1, () =>
    withTrial(files, async trial => {
      const where = draw(3, random) // the commit, or a page of the list
      let n = 0
      trial.server.fault = (answer, asked) => {
        const at = asked.at === 'revision' ? 0 : asked.at === 'tree' ? 1 + asked.before : -1
        if (at !== where) return
        answer.body = flipped(answer.body, draw(8 * answer.body.length, random))
        n++
      }
      await trial.pull().catch(() => {})
      return { n, failures: trial.misnamed }
    }),
  )
}

/** What an interrupted download left of a file. */
interface Partial {
  path: string
  bytes: Buffer
  map: Buffer
}

const partialOf = (home: string, etag: string) => {
  const blob = join(home, 'hub/models--openai--gpt-oss-20b/blobs', etag)
  return { bytes: `${blob}.tutti.incomplete`, map: `${blob}.map.incomplete` }
}

/** A bit flips in a partial file, or in the list of its parts, between two runs. */
async function flipPartial(count: number, seed: number): Promise<Found> {
  const files = manyShards(seed)
  const random = seededRandom(seed)
  const partials = await interrupted(files)
  return inBatches(count, numShards, size =>
    withTrial(files, async trial => {
      const flips = partials.slice(0, size).map(partial => {
        const inMap = random() < 0.2
        const kind = inMap ? 'map' : 'bytes'
        leave(trial.home, { ...partial, [kind]: flipped(partial[kind], draw(8 * partial[kind].length, random)) }, files)
        return { ...partial, inMap }
      })
      const failures = await pullWhole(trial)
      for (const { path, map, inMap } of flips) {
        const [most, asked] = [shardParts - numLines(map) + 1, trial.server.bodies(path).length]
        if (!inMap && asked > most) failures.push(`${path}: ${asked} parts were fetched where ${most} are enough`)
      }
      return { n: flips.length, failures }
    }),
  )
}

/** The partial files of all shards when most parts of them have come. */
async function interrupted(files: ModelFiles): Promise<Partial[]> {
  return withTrial(files, async trial => {
    const partials: Partial[] = []
    trial.server.fault = (_, { at, path, before }) => {
      if (at !== 'link' || !isShard(path) || before !== shardParts - 1) return
      const paths = partialOf(trial.home, sha256(files[path]))
      partials.push({ path, bytes: readFileSync(paths.bytes), map: readFileSync(paths.map) })
    }
    await trial.pull()
    return partials
  })
}

function leave(home: string, { path, bytes, map }: Partial, files: ModelFiles): void {
  const paths = partialOf(home, sha256(files[path]))
  mkdirSync(join(paths.bytes, '..'), { recursive: true })
  writeFileSync(paths.bytes, bytes)
  writeFileSync(paths.map, map)
}

/** Of parts that the list has. */
const numLines = (map: Buffer) => map.toString('latin1').split('\n').length - 2

/** A bit flips on the disk while the download goes on, in a part that was recorded. */
async function flipOnDisk(count: number, seed: number): Promise<Found> {
  const files = manyShards(seed)
  const random = seededRandom(seed)
  return inBatches(count, numShards, size =>
    withTrial(files, async trial => {
      const chosen = new Set(Object.keys(files).filter(isShard).slice(0, size))
      let n = 0
      trial.server.fault = (_, { at, path, before }) => {
        if (at !== 'link' || !chosen.has(path) || before !== shardParts - 1) return
        const paths = partialOf(trial.home, sha256(files[path]))
        const [, part] = /^(\d+) [0-9a-f]{64}$/m.exec(readFileSync(paths.map, 'latin1')) ?? []
        const bit = 8 * partBytes * Number(part) + draw(8 * (partBytes - 100), random)
        writeFileSync(paths.bytes, flipped(readFileSync(paths.bytes), bit), { flag: 'r+' })
        n++
      }
      const failures = await pullWhole(trial)
      for (const path of chosen) {
        const asked = trial.server.bodies(path).length
        if (asked > shardParts + 1)
          failures.push(`${path}: ${asked - shardParts} parts were fetched again instead of one`)
      }
      return { n, failures }
    }),
  )
}

/* ---- bits that flip in finished files */

/** What the system tells of a file whose bytes have changed: its time, or another inode, or another size, or nothing. */
const traces = ['mtime', 'inode', 'size', 'none'] as const

/** Whoever verifies a model hears of each file with a flip, and of no other. */
async function flipAndVerify(count: number, seed: number): Promise<Found> {
  const files = manyShards(seed)
  const random = seededRandom(seed)
  return withTrial(files, async trial => {
    const path = await pullFinished(trial)
    return inBatches(count, numShards, async size => {
      const chosen = Object.keys(files).slice(0, size)
      const restore = chosen.map(name => damage(join(path, name), traces[draw(traces.length, random)], random))
      const found = await verify(trial)
      for (const undo of restore) undo()
      const wrong = [...new Set([...chosen, ...found])].filter(name => chosen.includes(name) !== found.includes(name))
      const failures = wrong.map(name => `${name} was ${chosen.includes(name) ? 'not found' : 'called damaged'}`)
      return { n: size, failures: [...failures, ...(await verify(trial)).map(name => `${name} stays damaged`)] }
    })
  })
}

/** Loading finds a flip that left a trace, and passes when the file is as it was. */
async function flipAndLoad(count: number, seed: number): Promise<Found> {
  const folder = fileURLToPath(new URL('../golden/logits/tiny/hf', import.meta.url))
  const names = readdirSync(folder)
  const files = Object.fromEntries(names.map(name => [name, readFileSync(join(folder, name))]))
  const random = seededRandom(seed)
  return withTrial(files, async trial => {
    const path = await pullFinished(trial, { partBytes: 2 ** 16 })
    return inBatches(count, 1, async (_, turn) => {
      const [name, trace] = [names[draw(names.length, random)], traces[turn % 3]]
      const undo = damage(join(path, name), trace, random)
      const refused = await loadFailure(trial, path)
      undo()
      const passed = await loadFailure(trial, path)
      const failures = passed ? [`${name}, as it was: ${passed}`] : []
      const isFound = refused instanceof CheckpointError && /is damaged/.test(refused.message)
      if (!isFound || !refused.message.includes(name)) failures.push(`${name} with another ${trace}: ${refused}`)
      return { n: 1, failures }
    })
  })
}

/** The folder of a model whose files have times of whole seconds, which can be given again. */
async function pullFinished(trial: Trial, options?: PullOptions): Promise<string> {
  const { path } = await trial.pull(options)
  for (const name of Object.keys(trial.files)) utimesSync(join(path, name), 1e9, 1e9)
  const bad = await verify(trial)
  if (bad.length > 0) throw new Error(`what was pulled is called damaged: ${bad.join(', ')}`)
  return path
}

/** Flips a bit of a file, or cuts off its last byte, and gives what undoes it. */
function damage(link: string, trace: (typeof traces)[number], random: Random): () => void {
  const path = realpathSync(link)
  const bytes = readFileSync(path)
  const changed = flipped(bytes, draw(8 * bytes.length, random))
  const aside = `${path}.aside`
  if (trace === 'inode') renameSync(path, aside)
  writeFileSync(path, trace === 'size' ? bytes.subarray(1) : changed)
  if (trace !== 'mtime') utimesSync(path, 1e9, 1e9)
  return () => {
    if (trace === 'inode') return renameSync(aside, path)
    writeFileSync(path, bytes)
    utimesSync(path, 1e9, 1e9)
  }
}

/** The files that `tutti models --verify` calls damaged. */
async function verify({ environment, home }: Trial): Promise<string[]> {
  const options = { environment, recordFolder: recordFolderOf(home) }
  const [{ bad, unknown }, ...others] = await verifyModels(await listModels(options), options)
  if (others.length > 0 || unknown.length > 0) throw new Error(`${others.length} other models, no hash of ${unknown}`)
  return bad.map(({ path }) => path)
}

/** Why the folder does not load; undefined if it does. */
async function loadFailure({ home }: Trial, path: string): Promise<unknown> {
  try {
    const checkpoint = await openChecked(await openFolder(path), { folder: recordFolderOf(home) })
    return void (await checkpoint.close())
  } catch (error) {
    return error
  }
}
