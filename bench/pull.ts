/**
 * How fast `tutti pull` is, beside `curl`, `sync` and `sha256sum` one after the other on the same files: shards of
 * gpt-oss-20b's sizes from a hub on loopback, which makes their bytes as it sends them.
 *
 *   node --conditions=tutti-source bench/pull.ts [--files N] [--rounds N] [--json]
 *
 * --files: so many of the three shards (default 1). It runs bin/tutti.js, so dist/ has to be current, and needs Linux or
 * macOS with curl. All that it writes lies in a new folder in TUTTI_BENCH_DIR, removed at the end. Ours and theirs take
 * turns; then a pull is killed with -9 in its middle, and the next one tells how many parts were fetched again.
 */
import { type ChildProcess, fork, spawn, spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, statfsSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { machine } from '../scripts/bench.ts'
import { safetensorsHeader } from '../src/checkpoint/write.ts'
import { HubServer, type MadeFile } from '../test/hub/server.ts'
import { benchFolder } from './peers/measures.ts'

/** Bytes of the published shards. */
const sizes = [4_792_272_488, 4_798_702_184, 4_170_342_232]
const partBytes = 64 * 2 ** 20
const numConnections = 4
const spareBytes = 4 * 2 ** 30
const root = fileURLToPath(new URL('..', import.meta.url))
const shardName = (n: number, count: number) =>
  `model-${String(n).padStart(5, '0')}-of-${String(count - 1).padStart(5, '0')}.safetensors`

// --- the hub, a process of its own ---

/** Noise behind a header; it repeats, but not in step with parts. */
function madeShard(size: number, noise: Buffer): MadeFile {
  const declare = (byteLength: number) =>
    safetensorsHeader([{ name: 'noise', dataType: 'U8', shape: [byteLength], byteLength }])
  const header = Buffer.from(declare(size - declare(size).length))
  const made = {
    length: size,
    sha256: '',
    *pieces(begin: number, end: number): Generator<Buffer> {
      for (let at = begin; at < end; ) {
        const isHeader = at < header.length
        const from = isHeader ? at : (at - header.length) % noise.length
        const piece = (isHeader ? header : noise).subarray(from, from + Math.min(2 ** 20, end - at))
        yield piece
        at += piece.length
      }
    },
  }
  const hash = createHash('sha256')
  for (const piece of made.pieces(0, size)) hash.update(piece)
  made.sha256 = hash.digest('hex')
  return made
}

interface Hub {
  url: string
  linksUrl: string
}

async function serve(count: number): Promise<void> {
  const noise = randomBytes(partBytes - 4093)
  const names = sizes.slice(0, count).map((_, n) => shardName(n, count))
  const index = { weight_map: Object.fromEntries(names.map((name, n) => [`noise.${n}`, name])) }
  const config = {
    ...{ num_hidden_layers: 24, num_local_experts: 32, experts_per_token: 4, vocab_size: 201088, hidden_size: 2880 },
    ...{ intermediate_size: 2880, head_dim: 64, num_attention_heads: 64, num_key_value_heads: 8, sliding_window: 128 },
  }
  const files: Record<string, Buffer | MadeFile> = {
    'config.json': Buffer.from(JSON.stringify(config)),
    'model.safetensors.index.json': Buffer.from(JSON.stringify(index)),
  }
  for (const [n, name] of names.entries()) files[name] = madeShard(sizes[n], noise)
  const server = await HubServer.start({ files })
  process.on('message', () => process.send!(server.log.filter(({ at }) => at === 'link').length))
  process.send!({ url: server.url, linksUrl: server.linksUrl } satisfies Hub)
}

async function ask<T>(child: ChildProcess, question?: string): Promise<T> {
  if (question) child.send(question)
  const [answer] = await once(child, 'message')
  return answer
}

// --- what is measured ---

interface Pulled {
  seconds: number
  /** The most that lay in memory at once. */
  peakBytes: number
}

function startPull(folder: string, { url }: Hub): ChildProcess {
  const tellPeak = `import { writeSync } from 'node:fs'; process.on('exit', () => writeSync(3, String(process.resourceUsage().maxRSS)))`
  const args = [
    '--import',
    `data:text/javascript,${encodeURIComponent(tellPeak)}`,
    'bin/tutti.js',
    'pull',
    'gpt-oss-20b',
  ]
  return spawn(process.execPath, args, {
    cwd: root,
    env: { ...process.env, HF_HOME: join(folder, 'hf'), HF_ENDPOINT: url, TUTTI_CACHE_DIR: join(folder, 'tutti') },
    stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
  })
}

async function takeOurs(folder: string, hub: Hub): Promise<Pulled> {
  const begin = performance.now()
  const child = startPull(folder, hub)
  const told = text(child.stdio[3] as NodeJS.ReadableStream & AsyncIterable<Buffer>)
  const said = text(child.stderr!)
  const [code] = await once(child, 'close')
  if (code !== 0) throw new Error(`tutti pull ended with code ${code}: ${await said}`)
  return { seconds: (performance.now() - begin) / 1000, peakBytes: Number(await told) * 1024 }
}

/** Seconds of each program. */
function takeTheirs(folder: string, { linksUrl }: Hub, count: number): Record<'curl' | 'sync' | 'sha256sum', number> {
  const seconds = { curl: 0, sync: 0, sha256sum: 0 }
  for (let n = 0; n < count; n++) {
    const file = join(folder, shardName(n, count))
    seconds.curl += timed('curl', ['--silent', '--fail', '--output', file, `${linksUrl}/${shardName(n, count)}`])
    seconds.sync += timed('sync', [file])
    seconds.sha256sum += timed('sha256sum', [file])
  }
  return seconds
}

function timed(program: string, args: string[]): number {
  const begin = performance.now()
  const { status, error } = spawnSync(program, args, { stdio: ['ignore', 'ignore', 'inherit'] })
  if (status !== 0) throw new Error(`${program} failed: ${error?.message ?? `it ended with code ${status}`}`)
  return (performance.now() - begin) / 1000
}

/** Kills a pull when half of its parts were asked for. Resolves to how many parts were asked for twice in the end. */
async function partsAgain(folder: string, hub: Hub, server: ChildProcess, numParts: number): Promise<number> {
  const before = await ask<number>(server, 'count')
  const child = startPull(folder, hub)
  const closed = once(child, 'close')
  while ((await ask<number>(server, 'count')) - before < numParts / 2) {
    if (child.exitCode !== null) throw new Error('tutti pull ended before it was killed')
    await new Promise(resolve => setTimeout(resolve, 50))
  }
  child.kill('SIGKILL')
  await closed
  await takeOurs(folder, hub)
  return (await ask<number>(server, 'count')) - before - numParts
}

// --- the report ---

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]
const rounded = (value: number) => Number(value.toPrecision(4))
const range = (values: readonly number[]) => [rounded(Math.min(...values)), rounded(Math.max(...values))]

async function measure(server: ChildProcess, folder: string, count: number, rounds: number): Promise<object> {
  const hub = await ask<Hub>(server)
  const clean = <T>(result: T) => {
    for (const inside of ['hf', 'tutti', ...sizes.map((_, n) => shardName(n, count))]) {
      rmSync(join(folder, inside), { recursive: true, force: true })
    }
    spawnSync('sync')
    return result
  }
  const bytes = sizes.slice(0, count).reduce((a, b) => a + b)
  const served = timed('curl', [
    '--silent',
    '--fail',
    '--output',
    '/dev/null',
    `${hub.linksUrl}/${shardName(0, count)}`,
  ])
  const ours: Pulled[] = []
  const theirs: ReturnType<typeof takeTheirs>[] = []
  for (let round = 0; round < rounds; round++) {
    ours.push(clean(await takeOurs(folder, hub)))
    theirs.push(clean(takeTheirs(folder, hub, count)))
  }
  const numParts = sizes.slice(0, count).reduce((sum, size) => sum + Math.ceil(size / partBytes), 0)
  const again = clean(await partsAgain(folder, hub, server, numParts))
  const [own, peer] = [
    ours.map(({ seconds }) => seconds),
    theirs.map(({ curl, sync, sha256sum }) => curl + sync + sha256sum),
  ]
  return {
    measure: `pull of ${(bytes / 1e9).toFixed(2)} GB`,
    ours: rounded(median(own)),
    peer: rounded(median(peer)),
    against: 'curl, sync, sha256sum',
    ratio: rounded(median(peer) / median(own)),
    unit: 's',
    spread: { ours: range(own), peer: range(peer) },
    plainRead: [],
    commit: spawnSync('git', ['rev-parse', 'HEAD'], { cwd: root, encoding: 'utf8' }).stdout?.trim() ?? '',
    rounds,
    more: {
      curl: rounded(median(theirs.map(({ curl }) => curl))),
      sync: rounded(median(theirs.map(({ sync }) => sync))),
      sha256sum: rounded(median(theirs.map(({ sha256sum }) => sha256sum))),
      'peak memory MB': Math.round(Math.max(...ours.map(({ peakBytes }) => peakBytes)) / 1e6),
      'parts again after kill -9': `${again} of ${numConnections} at most`,
      'hub alone GB/s': rounded(sizes[0] / 1e9 / served),
    },
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      files: { type: 'string', default: '1' },
      rounds: { type: 'string', default: '3' },
      json: { type: 'boolean', default: false },
      serve: { type: 'boolean', default: false },
    },
  })
  const count = Number(values.files)
  if (!sizes[count - 1]) throw new Error(`--files ${values.files} is none of 1 to ${sizes.length}`)
  if (values.serve) return serve(count)
  mkdirSync(benchFolder(), { recursive: true })
  const { bavail, bsize } = statfsSync(benchFolder())
  const needed = sizes.slice(0, count).reduce((a, b) => a + b) + spareBytes
  if (bavail * bsize < needed) {
    throw new Error(`${benchFolder()} has ${bavail * bsize} bytes free, and this takes ${needed}: set TUTTI_BENCH_DIR`)
  }
  const folder = mkdtempSync(join(benchFolder(), 'pull-'))
  const server = fork(fileURLToPath(import.meta.url), ['--serve', '--files', values.files], {
    execArgv: ['--conditions=tutti-source', '--disable-warning=ExperimentalWarning'],
  })
  try {
    console.error(machine())
    const result = await measure(server, folder, count, Number(values.rounds))
    console.log(values.json ? JSON.stringify(result) : result)
  } finally {
    server.kill()
    rmSync(folder, { recursive: true, force: true })
  }
}

await main().catch(error => {
  console.error(error.message)
  process.exitCode = 1
})
