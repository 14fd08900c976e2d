import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { type Answer, type Asked, failure, HubServer, json, sha256 } from '../../test/hub/server.ts'
import { CheckpointError, DeviceError, RequestError } from '../base/errors.ts'
import { readEnvironment } from './environment.ts'
import { type PullOptions, pull } from './pull.ts'

const partBytes = 64 * 1024
const shards = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
const [first, second] = shards
const weightMap = Object.fromEntries(shards.map((shard, n) => [`model.layers.${n}`, shard]))
const nano = fileURLToPath(new URL('../../models/nano/', import.meta.url))
const files: Record<string, Buffer> = {
  '.gitattributes': Buffer.from('*.safetensors filter=lfs'),
  LICENSE: Buffer.from('Apache'),
  'README.md': Buffer.from('# read me'),
  'chat_template.jinja': Buffer.from('{{ messages }}'),
  'config.json': readFileSync(join(nano, 'config.json')),
  'generation_config.json': Buffer.from('{}'),
  'metal/model.bin': randomBytes(100),
  [first]: randomBytes(10 * partBytes + 77),
  [second]: randomBytes(3 * partBytes),
  'model.safetensors.index.json': Buffer.from(JSON.stringify({ weight_map: weightMap })),
  'original/config.json': readFileSync(join(nano, 'config.json')),
  'original/dtypes.json': Buffer.from('{}'),
  'original/model.safetensors': randomBytes(2 * partBytes),
  'tokenizer.json': randomBytes(partBytes + 1),
  'tokenizer_config.json': Buffer.from('{}'),
}
const taken = Object.keys(files).filter(name => !/^(\.|README|metal|original)/.test(name))

const cleanUps: (() => unknown)[] = []
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0)) await cleanUp()
})

type Fault = (answer: Answer, asked: Asked) => void

interface Setting {
  server: HubServer
  home: string
  repo: string
  /** Seconds that were waited for, without waiting. */
  waits: number[]
  environment: Record<string, string>
  pull: (options?: PullOptions, name?: string) => ReturnType<typeof pull>
}

async function setUp(fault?: Fault, more: Record<string, string> = {}): Promise<Setting> {
  const server = await HubServer.start({ files, fault })
  const home = mkdtempSync(join(tmpdir(), 'tutti-hub-'))
  cleanUps.push(
    () => server.close(),
    () => rmSync(home, { recursive: true }),
  )
  process.env.TUTTI_CACHE_DIR = join(home, 'tutti')
  const environment = { HF_HOME: home, HF_ENDPOINT: server.url, HF_HUB_DOWNLOAD_TIMEOUT: '1', ...more }
  const waits: number[] = []
  const wait = async (ms: number) => void waits.push(ms / 1000)
  return {
    ...{ server, home, waits, environment, repo: join(home, 'hub/models--openai--gpt-oss-20b') },
    pull: (options = {}, name = 'gpt-oss-20b') =>
      pull(name, { partBytes, wait, environment: readEnvironment(environment), ...options }),
  }
}

/** All of the model is there and right, and nothing else is. */
function assertWhole({ repo, server }: Setting, names = taken): void {
  const snapshot = join(repo, 'snapshots', server.commit)
  for (const name of names) assert.ok(readFileSync(join(snapshot, name)).equals(files[name]), `${name} is right`)
  const found = globSync('**', { cwd: snapshot, exclude: name => name === '.' }).filter(
    name => !statSync(join(snapshot, name)).isDirectory(),
  )
  assert.deepEqual(found.sort(), [...names].sort())
  assert.equal(readFileSync(join(repo, 'refs/main'), 'utf8'), server.commit)
  assert.deepEqual(globSync('**/*.{incomplete,lock}', { cwd: join(repo, '..') }), [])
}

const filesIn = (folder: string) =>
  globSync('**', { cwd: folder }).filter(name => !statSync(join(folder, name)).isDirectory())

/** Of some place, and of some file if one is named. */
const isAt = (asked: Asked, at: Asked['at'], path?: string) => asked.at === at && (!path || asked.path === path)
const become = (answer: Answer, other: Answer) => Object.assign(answer, other)

describe('pull', () => {
  it('takes one layout, and names it by links', async () => {
    const setting = await setUp()
    const pulled = await setting.pull()
    assertWhole(setting)
    assert.equal(pulled.path, join(setting.repo, 'snapshots', setting.server.commit))
    assert.equal(
      pulled.bytes,
      taken.reduce((sum, name) => sum + files[name].length, 0),
    )
    assert.equal(pulled.fetchedBytes, pulled.bytes - 2, 'two files are alike, and one blob')
    assert.equal(readlinkSync(join(pulled.path, first)), `../../blobs/${sha256(files[first])}`)
  })

  it('fetches nothing again', async () => {
    const setting = await setUp()
    await setting.pull()
    const numBefore = setting.server.log.filter(({ at }) => at === 'resolve').length
    assert.equal((await setting.pull()).fetchedBytes, 0)
    assert.equal(setting.server.log.filter(({ at }) => at === 'resolve').length, numBefore)
    assertWhole(setting)
  })

  it('takes original/ when asked to', async () => {
    const setting = await setUp()
    await setting.pull({ layout: 'original' })
    const small = taken.filter(name => !name.startsWith('model'))
    assertWhole(setting, [...small, ...Object.keys(files).filter(name => name.startsWith('original/'))])
  })

  it('replaces a blob whose bytes are wrong, and keeps the right ones', async () => {
    const setting = await setUp()
    await setting.pull()
    const blob = join(setting.repo, 'blobs', sha256(files[first]))
    writeFileSync(blob, randomBytes(files[first].length))
    assert.equal((await setting.pull()).fetchedBytes, files[first].length)
    assertWhole(setting)
  })

  it('stores the files themselves where there are no links', async () => {
    const setting = await setUp(undefined, { HF_HUB_DISABLE_SYMLINKS: '1' })
    await setting.pull()
    assertWhole(setting)
    assert.ok(!existsSync(join(setting.repo, 'blobs', sha256(files[first]))))
    assert.equal((await setting.pull()).fetchedBytes, 0)
  })

  it('writes no ref for a commit', async () => {
    const setting = await setUp()
    await setting.pull({ revision: setting.server.commit })
    assert.equal(existsSync(join(setting.repo, 'refs')), false)
  })

  it('tells progress', async () => {
    const setting = await setUp()
    const told: [number, number][] = []
    await setting.pull({ onProgress: ({ doneBytes, totalBytes }) => told.push([doneBytes, totalBytes]) })
    const [done, total] = told.at(-1) ?? []
    assert.equal(done, total)
    assert.equal(
      total,
      taken.reduce((sum, name) => sum + files[name].length, 0),
    )
  })

  it('sends the token to the hub alone', async () => {
    const setting = await setUp(undefined, { HF_TOKEN: ' hf_secret\n' })
    await setting.pull()
    for (const { at, headers } of setting.server.log) {
      assert.equal(headers.authorization, at === 'link' ? undefined : 'Bearer hf_secret', at)
      assert.equal(headers['accept-encoding'], 'identity')
    }
  })
})

/** Faults that pass. */
const passing: [name: string, fault: Fault, check?: (setting: Setting) => void][] = [
  [
    'a signed link that is refused once',
    (answer, asked) => isAt(asked, 'link') && asked.before === 1 && become(answer, failure(403)),
  ],
  [
    'a body that ends early',
    (answer, asked) => {
      if (isAt(asked, 'link', first) && asked.before < 3) answer.cutAt = 1000
    },
  ],
  [
    'a body that stalls',
    (answer, asked) => {
      if (isAt(asked, 'link', first) && asked.before === 2) answer.stallAt = 1000
    },
  ],
  [
    'a server that ignores Range',
    (answer, asked) => {
      if (isAt(asked, 'link', first)) become(answer, { status: 200, headers: {}, body: files[first] })
    },
  ],
  [
    'a server that ignores Range and breaks off',
    (answer, asked) => {
      if (!isAt(asked, 'link', first)) return
      become(answer, { status: 200, headers: {}, body: files[first] })
      if (asked.before < 8) answer.cutAt = 4 * partBytes
    },
  ],
  [
    'a byte that flips once',
    (answer, asked) => {
      if (isAt(asked, 'link', second) && asked.before === 0) flip(answer)
    },
  ],
  [
    '429 with RateLimit',
    (answer, asked) => {
      if (asked.before > 0 || !isAt(asked, 'tree')) return
      become(answer, { ...failure(429), headers: { ratelimit: '"api";r=0;t=1', 'retry-after': '9' } })
    },
    ({ waits }) => assert.deepEqual(waits, [2]),
  ],
  [
    '429 with Retry-After',
    (answer, asked) => {
      if (asked.before > 0 || !isAt(asked, 'resolve', 'config.json')) return
      become(answer, { ...failure(429), headers: { 'retry-after': '3' } })
    },
    ({ waits }) => assert.deepEqual(waits, [4]),
  ],
  [
    '503 three times',
    (answer, asked) => isAt(asked, 'revision') && asked.before < 3 && become(answer, failure(503)),
    ({ waits }) => assert.deepEqual(waits, [1, 2, 4]),
  ],
]

function flip(answer: Answer): void {
  const body = Buffer.from(answer.body)
  body[17] ^= 4
  answer.body = body
}

describe('pull gets over', () => {
  for (const [name, fault, check] of passing) {
    it(name, async () => {
      const setting = await setUp(fault)
      await setting.pull()
      assertWhole(setting)
      check?.(setting)
    })
  }

  it('many breaks in one part, as long as something comes', async () => {
    const setting = await setUp((answer, asked) => {
      if (isAt(asked, 'link', second)) answer.cutAt = 5000
    })
    await setting.pull()
    assertWhole(setting)
  })

  it('parts that change on the disk after they were recorded', async () => {
    const changed: number[] = []
    const partial = (kind: string) => join(setting.repo, 'blobs', `${sha256(files[first])}.${kind}.incomplete`)
    const setting = await setUp((_, asked) => {
      if (!isAt(asked, 'link', first) || asked.before !== 10) return
      const [, part] = /^(\d+) [0-9a-f]{64}$/m.exec(readFileSync(partial('map'), 'latin1')) ?? []
      const handle = openSync(partial('tutti'), 'r+')
      writeSync(handle, 'other', Number(part) * partBytes)
      closeSync(handle)
      changed.push(Number(part))
    })
    await setting.pull()
    assertWhole(setting)
    assert.equal(changed.length, 1)
    assert.equal(setting.server.bodies(first).length, 12, 'eleven parts, and one of them again')
  })
})

type Kind = new (...args: never[]) => Error

/** Faults that stay. `left`: files that may be there afterwards. */
const staying: [name: string, fault: Fault, error: Kind, says: RegExp, left?: RegExp][] = [
  [
    'a page of the list that lies elsewhere',
    (answer, asked) => {
      if (isAt(asked, 'tree')) answer.headers.link = '<http://127.0.0.1:1/next>; rel="next"'
    },
    CheckpointError,
    /goes on at http:\/\/127\.0\.0\.1:1\/next/,
  ],
  [
    '416 always',
    (answer, asked) => isAt(asked, 'link', second) && become(answer, failure(416)),
    DeviceError,
    /no such range .* twice/,
    /./,
  ],
  [
    'another etag',
    (answer, asked) => {
      if (isAt(asked, 'resolve', second)) answer.headers['x-linked-etag'] = `"${'a'.repeat(64)}"`
    },
    CheckpointError,
    /gives the hash a{64}/,
    /./,
  ],
  [
    'another size',
    (answer, asked) => {
      if (isAt(asked, 'resolve', second)) answer.headers['x-linked-size'] = 1
    },
    CheckpointError,
    /gives the size 1/,
    /./,
  ],
  [
    'a byte that flips always',
    (answer, asked) => isAt(asked, 'link', second) && flip(answer),
    CheckpointError,
    /has not the hash/,
    /./,
  ],
  [
    'gzip that nobody asked for',
    (answer, asked) => {
      if (isAt(asked, 'small')) answer.headers['content-encoding'] = 'gzip'
    },
    DeviceError,
    /encoding gzip/,
  ],
  [
    '503 always',
    (answer, asked) => isAt(asked, 'revision') && become(answer, failure(503)),
    DeviceError,
    /answers 503/,
  ],
  [
    'no commit',
    (answer, asked) => {
      if (isAt(asked, 'resolve') || isAt(asked, 'small')) delete answer.headers['x-repo-commit']
    },
    CheckpointError,
    /gives no commit/,
  ],
  [
    'an etag that leads out of the cache',
    (answer, asked) => {
      if (isAt(asked, 'tree')) become(answer, json([{ type: 'file', path: 'config.json', size: 9, oid: '../x' }]))
    },
    CheckpointError,
    /no hash of 40 digits/,
  ],
  [
    'a path that leads out of the cache',
    (answer, asked) => {
      const oid = '1'.repeat(40)
      if (isAt(asked, 'tree')) become(answer, json([{ type: 'file', path: '../x', size: 9, oid }]))
    },
    CheckpointError,
    /the path "\.\.\/x"/,
  ],
  [
    'a file of 9 TB',
    (answer, asked) => {
      if (!isAt(asked, 'tree')) return
      const entries = JSON.parse(answer.body.toString()) as { path: string; size: number }[]
      for (const entry of entries) if (entry.path === first) entry.size = 9e12
      answer.body = Buffer.from(JSON.stringify(entries))
    },
    DeviceError,
    /needs 9000\.\d\d GB more/,
    /^[0-9a-f]{40}$/,
  ],
  ['401', (answer, asked) => isAt(asked, 'revision') && become(answer, failure(401)), RequestError, /it is private/],
  [
    '401 for a bad token',
    (answer, asked) =>
      isAt(asked, 'revision') && become(answer, failure(401, undefined, 'Invalid credentials in Authorization header')),
    RequestError,
    /does not accept your token/,
  ],
  [
    '403 of a gated one',
    (answer, asked) => isAt(asked, 'resolve') && become(answer, failure(403, 'GatedRepo')),
    RequestError,
    /gated: ask for access/,
  ],
  [
    '403 of a disabled one',
    (answer, asked) =>
      isAt(asked, 'revision') && become(answer, failure(403, undefined, 'Access to this resource is disabled.')),
    RequestError,
    /has disabled/,
  ],
  [
    '404',
    (answer, asked) => isAt(asked, 'revision') && become(answer, failure(404, 'RepoNotFound')),
    RequestError,
    /check the name/,
  ],
  [
    '404 of a revision',
    (answer, asked) => isAt(asked, 'revision') && become(answer, failure(404, 'RevisionNotFound')),
    RequestError,
    /has no revision main of openai\/gpt-oss-20b: check the revision/,
  ],
  [
    'another architecture',
    (answer, asked) => {
      if (!isAt(asked, 'tree')) return
      const entries = JSON.parse(answer.body.toString()) as { path: string }[]
      answer.body = Buffer.from(JSON.stringify(entries.filter(({ path }) => path !== 'config.json')))
    },
    RequestError,
    /no config\.json/,
  ],
]

describe('pull refuses', () => {
  for (const [name, fault, kind, says, left = /^$/] of staying) {
    it(`${name}, and makes no model of it`, async () => {
      const setting = await setUp(fault)
      await assert.rejects(setting.pull(), (error: Error) => {
        assert.ok(error instanceof kind, String(error))
        assert.match(error.message, says)
        return true
      })
      const blobs = join(setting.repo, 'blobs')
      const found = existsSync(blobs) ? filesIn(blobs) : []
      for (const file of found) assert.match(file, left)
      assert.ok(!found.some(file => file.startsWith(sha256(files[second])) && !file.endsWith('incomplete')))
      assert.deepEqual(
        filesIn(setting.home).filter(file => !file.includes('/blobs/')), // no record either
        [],
      )
    })
  }

  it('names that are none, and revisions that lead elsewhere', async () => {
    const { pull } = await setUp()
    for (const name of ['../x/y', 'gpt-oss', 'a/b/c', 'a/..', '']) await assert.rejects(pull({}, name), RequestError)
    for (const revision of ['../x', '..', 'a//b', '/etc', 'a\\b'])
      await assert.rejects(pull({ revision }), RequestError)
  })
})

describe('pull without a hub', () => {
  it('takes what is cached, and says why', async () => {
    const setting = await setUp()
    await setting.pull()
    await setting.server.close()
    const { path, notice } = await setting.pull()
    assert.equal(path, join(setting.repo, 'snapshots', setting.server.commit))
    assert.match(notice ?? '', /cannot be reached/)
    assert.deepEqual(setting.waits, [], 'it is not waited for')
    cleanUps.shift()
  })

  it('fails where nothing is cached', async () => {
    const setting = await setUp(undefined, { HF_ENDPOINT: 'http://127.0.0.1:9' })
    const told: [string, number][] = []
    const onRetry = (...retry: [string, number]) => void told.push(retry)
    await assert.rejects(setting.pull({ onRetry }), /127\.0\.0\.1:9 cannot be reached/)
    assert.deepEqual(setting.waits, [1, 2, 4, 8, 8])
    assert.deepEqual(
      told.map(([, ms]) => ms),
      [1000, 2000, 4000, 8000, 8000],
    )
    assert.match(told[0][0], /127\.0\.0\.1:9 cannot be reached/)
  })

  it('asks nothing in offline mode', async () => {
    const setting = await setUp()
    const offline = readEnvironment({ ...setting.environment, HF_HUB_OFFLINE: 'yes' })
    await assert.rejects(setting.pull({ environment: offline }), /is not in the cache/)
    assert.equal(setting.server.log.length, 0)
    await setting.pull()
    const numAsked = setting.server.log.length
    assert.match((await setting.pull({ environment: offline })).path, /snapshots/)
    assert.equal(setting.server.log.length, numAsked)
  })
})

const slow: Fault = (answer, asked) => {
  if (asked.at === 'link') answer.delayMs = 50
}

describe('pull, interrupted,', () => {
  it('stops at once and goes on later', async () => {
    const controller = new AbortController()
    const setting = await setUp((answer, asked) => {
      if (asked.at === 'link') answer.delayMs = 50
      if (isAt(asked, 'link', first) && asked.before === 8) controller.abort()
    })
    await assert.rejects(setting.pull({ signal: controller.signal }), error => error === controller.signal.reason)
    await setting.pull()
    assertWhole(setting)
    assert.ok(setting.server.bodies(first).length <= 11 + 4, `${setting.server.bodies(first).length} requests`)
  })

  it('fetches at most four parts again after kill -9', async () => {
    const setting = await setUp(slow)
    const url = (path: string) => JSON.stringify(new URL(path, import.meta.url).href)
    const program = `import { pull } from ${url('./pull.ts')}; await pull('gpt-oss-20b', { partBytes: ${partBytes} })`
    const child = spawn(
      process.execPath,
      ['--conditions=tutti-source', '--disable-warning=ExperimentalWarning', '--input-type=module', '-e', program],
      { env: { ...process.env, ...setting.environment }, stdio: 'inherit' },
    )
    const ended = new Promise(done => child.on('exit', (_, signal) => done(signal)))
    while (setting.server.bodies(first).length < 9 && child.exitCode === null)
      await new Promise(done => setTimeout(done, 5))
    child.kill('SIGKILL')
    assert.equal(await ended, 'SIGKILL')
    await setting.pull()
    assertWhole(setting)
    const numBodies = setting.server.bodies(first).length
    assert.ok(numBodies <= 11 + 4, `${numBodies} requests for 11 parts`)
  })

  it('lets two at once share the work', async () => {
    const setting = await setUp(slow)
    const waited: number[] = []
    const pulls = [1, 2].map(() => setting.pull({ onWait: pid => waited.push(pid) }))
    const [one, two] = await Promise.all(pulls)
    assertWhole(setting)
    assert.equal(one.fetchedBytes + two.fetchedBytes, one.bytes - 2)
    assert.ok(waited.every(pid => pid === process.pid) && waited.length > 0)
  })
})

it('pull takes a blob that another program has finished meanwhile', async () => {
  const blob = (repo: string) => join(repo, 'blobs', sha256(files[second]))
  let repo = ''
  const setting = await setUp((_, asked) => {
    if (!isAt(asked, 'link', second) || asked.before > 0) return
    mkdirSync(join(repo, 'blobs'), { recursive: true })
    writeFileSync(blob(repo), files[second])
  })
  repo = setting.repo
  await setting.pull()
  assertWhole(setting)
})

it('pull says that the disk is full, keeps what is there, and goes on when there is room', async t => {
  const setting = await setUp()
  const { home } = setting
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', home], { stdio: 'ignore' })
  } catch {
    return t.skip('only an administrator of Linux can make a small disk')
  }
  cleanUps.unshift(() => execFileSync('umount', ['-l', home]))
  const filler = join(home, 'filler')
  setting.server.fault = (_, asked) => {
    if (!isAt(asked, 'link', first) || asked.before !== 6) return
    assert.throws(() => writeFileSync(filler, Buffer.alloc(2 * 2 ** 20)), /ENOSPC/)
  }
  await assert.rejects(setting.pull(), /needs 0\.00 GB more and 1\.07 GB to spare/)
  await assert.rejects(setting.pull({ spareBytes: 0 }), (error: Error) => {
    assert.ok(error instanceof DeviceError)
    assert.match(
      error.message,
      /^the disk that holds .* is full: make room and run the command again; what is there is/,
    )
    return true
  })
  rmSync(filler)
  await setting.pull({ spareBytes: 0 })
  assertWhole(setting)
  const numBodies = setting.server.bodies(first).length
  assert.ok(numBodies <= 11 + 6, `${numBodies} requests for 11 parts`)
})
