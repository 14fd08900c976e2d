/**
 * Python's huggingface_hub and tutti share one cache. Needs Python with that package: TUTTI_PYTHON names one, or it is
 * installed into a virtual environment in the system's folder for temporary files.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, before, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { HubServer } from '../../test/hub/server.ts'
import { readEnvironment } from './environment.ts'
import { RepositoryCache } from './hub-cache.ts'
import { listModels, verifyModels } from './models.ts'
import { pull } from './pull.ts'
import { planRemoval, remove } from './remove.ts'

const run = promisify(execFile)
const nano = fileURLToPath(new URL('../../models/nano/config.json', import.meta.url))
const files = {
  'config.json': readFileSync(nano),
  'generation_config.json': Buffer.from('{}'),
  'model.safetensors': randomBytes(3_000_000),
  'tokenizer.json': randomBytes(100_000),
}
const numBytes = Object.values(files).reduce((sum, { length }) => sum + length, 0)

async function findPython(): Promise<string> {
  if (process.env.TUTTI_PYTHON) return process.env.TUTTI_PYTHON
  const folder = join(tmpdir(), 'tutti-huggingface-hub')
  const python = join(folder, process.platform === 'win32' ? 'Scripts/python.exe' : 'bin/python')
  if (existsSync(python)) return python
  await run('python3', ['-m', 'venv', folder])
  await run(python, ['-m', 'pip', 'install', '--quiet', 'huggingface_hub'])
  return python
}

/** Prints what a scan of the cache finds: files, bytes, and each warning. */
const scan = `
import sys
from huggingface_hub import scan_cache_dir
found = scan_cache_dir(sys.argv[1])
print(len(found.warnings), *found.warnings)
for repo in found.repos: print(repo.repo_id, repo.nb_files, repo.size_on_disk, sorted(repo.refs))
`
const snapshotDownload = `
import sys
from huggingface_hub import snapshot_download
print(snapshot_download('openai/gpt-oss-20b', local_files_only=sys.argv[1] == 'offline'))
`

describe('Python’s huggingface_hub', () => {
  let python: string
  before(async () => {
    python = await findPython()
  })
  const cleanUps: (() => unknown)[] = []
  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0)) await cleanUp()
  })

  async function setUp(more: Record<string, Buffer> = {}) {
    const server = await HubServer.start({ files: { ...files, ...more } })
    const home = mkdtempSync(join(tmpdir(), 'tutti-python-'))
    cleanUps.push(
      () => server.close(),
      () => rmSync(home, { recursive: true }),
    )
    const variables = { HF_HOME: home, HF_ENDPOINT: server.url, HF_HUB_DISABLE_XET: '1', HF_HUB_DISABLE_TELEMETRY: '1' }
    const environment = readEnvironment(variables)
    const call = async (program: string, ...args: string[]) =>
      (await run(python, ['-c', program, ...args], { env: { ...process.env, ...variables } })).stdout.trim()
    const recordFolder = join(home, 'tutti')
    const cache = new RepositoryCache(environment.cache, server.id)
    return {
      server,
      environment,
      recordFolder,
      cache,
      call,
      pull: () => pull('gpt-oss-20b', { environment, recordFolder }),
    }
  }

  it('finds nothing wrong in what tutti downloaded, and fetches none of it again', async () => {
    const { server, environment, call, pull } = await setUp()
    const { path } = await pull()
    assert.equal(
      await call(scan, environment.cache),
      `0\nopenai/gpt-oss-20b 4 ${numBytes} ['main']`, // warnings, then the repository
    )
    const numBodies = () => server.log.filter(({ at, method }) => at === 'link' && method === 'GET').length
    const before = numBodies()
    assert.equal(await call(snapshotDownload, 'online'), path)
    assert.equal(numBodies(), before)
    for (const [name, bytes] of Object.entries(files)) assert.ok(readFileSync(join(path, name)).equals(bytes), name)
  })

  it('downloads what tutti then uses', async () => {
    const { environment, call, pull } = await setUp()
    const path = await call(snapshotDownload, 'online')
    const pulled = await pull()
    assert.deepEqual([pulled.path, pulled.fetchedBytes, pulled.bytes], [path, 0, numBytes])
    assert.match(await call(scan, environment.cache), /^0\n/)
  })

  it('may download the same files at the same time', async () => {
    const { environment, call, pull } = await setUp()
    const [path, pulled] = await Promise.all([call(snapshotDownload, 'online'), pull()])
    assert.equal(pulled.path, path)
    assert.equal(await call(scan, environment.cache), `0\nopenai/gpt-oss-20b 4 ${numBytes} ['main']`)
    for (const [name, bytes] of Object.entries(files)) assert.ok(readFileSync(join(path, name)).equals(bytes), name)
  })

  it('finds nothing wrong, and nothing left, where tutti removed what it had pulled', async () => {
    const { environment, recordFolder, cache, call, pull } = await setUp()
    await pull()
    await remove(await planRemoval(cache, recordFolder))
    assert.equal(await call(scan, environment.cache), '0')
    assert.equal(existsSync(cache.root), false)
  })

  it('finds nothing wrong in what tutti left because Python had put it there', async () => {
    const { server, environment, recordFolder, cache, call, pull } = await setUp({
      'README.md': Buffer.from('# read me'),
    })
    await pull()
    await call(snapshotDownload, 'online')
    const { left } = await planRemoval(cache, recordFolder)
    assert.match(left[0], /^of snapshot \w+ README\.md: not pulled by tutti/)
    await remove(await planRemoval(cache, recordFolder))
    assert.match(await call(scan, environment.cache), /^0\nopenai\/gpt-oss-20b 1 /)
    assert.equal(readFileSync(join(cache.snapshot(server.commit), 'README.md'), 'utf8'), '# read me')
  })

  it('and tutti agree on what is whole', async () => {
    const { environment, recordFolder, call } = await setUp()
    const path = await call(snapshotDownload, 'online')
    const models = await listModels({ environment, recordFolder })
    assert.deepEqual(
      models.map(model => [model.path, model.isPulled]),
      [[path, false]],
    )
    const [{ bad, unknown, numFiles }] = await verifyModels(models, { environment, recordFolder })
    assert.deepEqual([bad, unknown, numFiles], [[], [], Object.keys(files).length])
  })
})
