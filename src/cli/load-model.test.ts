import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { HubServer } from '../../test/hub/server.ts'
import { answering, FakeShell } from './testing.ts'

const config = readFileSync(fileURLToPath(new URL('../../models/nano/config.json', import.meta.url)))
const files = {
  'config.json': config,
  'model.safetensors': randomBytes(100_000),
  'original/config.json': config,
  'original/model.safetensors': randomBytes(70_000),
}
let server: HubServer
let home: string
let snapshot: string
const outer = { ...process.env }

before(async () => {
  server = await HubServer.start({ files })
})
beforeEach(() => {
  if (home) rmSync(home, { recursive: true })
  home = mkdtempSync(join(tmpdir(), 'tutti-load-'))
  snapshot = join(home, 'hub/models--openai--gpt-oss-20b/snapshots', server.commit)
  Object.assign(process.env, { HF_HOME: home, HF_ENDPOINT: server.url, TUTTI_CACHE_DIR: join(home, 'tutti') })
})
after(async () => {
  process.env = outer
  rmSync(home, { recursive: true })
  await server.close()
})

const question = 'Download it now? [y/N] '

/** Runs a chat at a terminal and answers its question. */
async function atTerminal(keys: string, ...args: string[]) {
  const shell = new FakeShell([answering('Hello.')], { tty: true })
  const running = shell.run('chat', ...args, 'Hi')
  await shell.until(question)
  shell.type(keys)
  return { shell, ...(await running) }
}

describe('a model that is not there', () => {
  it('is offered for download at a terminal, and then the chat goes on', async () => {
    const { shell, code, stdout, stderr } = await atTerminal('y\r', '--model=gpt-oss-20b')
    assert.equal(code, 0, stderr)
    assert.equal(stdout, 'Hello.\n')
    assert.match(
      stderr,
      /openai\/gpt-oss-20b is not downloaded: 0\.00 GB, from 127\.0\.0\.1:\d+ to .*\/hub \(.* GB free\)/,
    )
    assert.match(stderr, /openai\/gpt-oss-20b at [0-9a-f]{8} is there and whole/)
    assert.deepEqual(
      shell.loads.map(({ model }) => model),
      [snapshot],
    )
  })

  it('is not downloaded without a yes, and the error says how to', async () => {
    for (const keys of ['\r', 'n\r', 'yeah?\r', '\x04']) {
      const { code, stderr, shell } = await atTerminal(keys, '--model=gpt-oss-20b@main')
      assert.equal(code, 1)
      assert.match(
        stderr,
        /tutti: gpt-oss-20b is not there: tutti pull --revision=main gpt-oss-20b downloads it later\n$/,
      )
      assert.deepEqual(shell.loads, [])
    }
    assert.equal(existsSync(join(home, 'hub')), false)
  })

  it('is not downloaded either after Ctrl-C', async () => {
    const { code, shell } = await atTerminal('\x03', '--model=gpt-oss-20b')
    assert.equal(code, 130)
    assert.deepEqual(shell.loads, [])
  })

  const inPipe: [args: string[], says: RegExp, variables?: Record<string, string>][] = [
    [['--model=gpt-oss-20b'], /^tutti: gpt-oss-20b is not downloaded: run tutti pull gpt-oss-20b, or give the folder/],
    [['--model=a/b@v1'], /^tutti: a\/b@v1 is not downloaded: run tutti pull --revision=v1 a\/b,/],
    [
      ['--model=gpt-oss-20b', '--layout=original'],
      /^tutti: gpt-oss-20b with the layout original is not downloaded: run tutti pull --layout=original gpt-oss-20b,/,
    ],
    [['--model=gpt-oss-20b'], /gpt-oss-20b, without HF_HUB_OFFLINE and/, { HF_HUB_OFFLINE: '1' }],
    [['--model=.', '--layout=root'], /--layout is for models that are pulled by name/],
    [['--model=gpt-oss-20b@../x'], /"\.\.\/x" is no revision/],
  ]
  for (const [args, says, variables = {}] of inPipe) {
    it(`is an error in a pipe: ${args.join(' ')}${variables.HF_HUB_OFFLINE ? ', offline' : ''}`, async () => {
      Object.assign(process.env, variables)
      const asked = server.log.length
      const { code, stderr } = await new FakeShell().run('generate', ...args, 'Hi')
      delete process.env.HF_HUB_OFFLINE
      assert.equal(code, 1)
      assert.match(stderr, says)
      assert.equal(server.log.length, asked, 'the hub was asked nothing')
    })
  }

  it('that no hub has, or no hub that answers, is an error before the question', async () => {
    const shell = new FakeShell([], { tty: true })
    const { code, stderr } = await shell.run('chat', '--model=openai/gpt-oss-7b', 'Hi')
    assert.equal(code, 1)
    assert.match(stderr, /has no openai\/gpt-oss-7b, or it is private: check the name/)
    assert.ok(!stderr.includes(question))
    process.env.HF_ENDPOINT = 'http://127.0.0.1:9'
    const begin = performance.now()
    assert.match((await new FakeShell([], { tty: true }).run('chat', '--model=a/b')).stderr, /127\.0\.0\.1:9 cannot be/)
    assert.ok(performance.now() - begin < 5000, 'not tried again and again')
  })
})

describe('a model that was pulled', () => {
  it('is found by its name, with a revision and by layout', async () => {
    await atTerminal('y\r', '--model=gpt-oss-20b')
    await atTerminal('y\r', '--model=gpt-oss-20b', '--layout=original')
    const found: [args: string[], path: string][] = [
      [['--model=gpt-oss-20b'], snapshot],
      [['--model=openai/gpt-oss-20b@main'], snapshot],
      [[`--model=gpt-oss-20b@${server.commit}`, '--layout=root'], snapshot],
      [['--model=gpt-oss-20b', '--layout=original'], join(snapshot, 'original')],
    ]
    for (const [args, path] of found) {
      const shell = new FakeShell()
      const { code, stderr } = await shell.run('generate', ...args, 'Hi')
      assert.equal(code, 0, stderr)
      assert.equal(shell.loads[0].model, path)
    }
  })
})
