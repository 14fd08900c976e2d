import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { type HubServer as Hub, HubServer } from '../../test/hub/server.ts'
import { showPull } from './pull.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const files = {
  'config.json': readFileSync(join(root, 'models/nano/config.json')),
  'model.safetensors': randomBytes(3_000_000),
}
let server: Hub
let home: string

before(async () => {
  server = await HubServer.start({ files })
})
beforeEach(() => {
  if (home) rmSync(home, { recursive: true })
  home = mkdtempSync(join(tmpdir(), 'tutti-pull-'))
  server.log.length = 0
})
after(async () => {
  await server.close()
  rmSync(home, { recursive: true })
})

interface Ended {
  code: number | null
  stdout: string
  stderr: string
}

/** Runs `tutti pull …`; `onStart` gets the process, and what it has printed so far. */
async function run(
  args: string[],
  onStart: (child: ChildProcess, printed: { stdout: string; stderr: string }) => void = () => {},
): Promise<Ended> {
  const child = spawn(process.execPath, ['--conditions=tutti-source', 'src/cli/main.ts', 'pull', ...args], {
    cwd: root,
    env: { ...process.env, HF_HOME: home, HF_ENDPOINT: server.url, TUTTI_CACHE_DIR: join(home, 'tutti') },
  })
  const printed = { stdout: '', stderr: '' }
  child.stdout.on('data', chunk => (printed.stdout += chunk))
  child.stderr.on('data', chunk => (printed.stderr += chunk))
  onStart(child, printed)
  const code = await new Promise<number | null>(resolve => child.on('close', resolve))
  return { code, ...printed }
}

describe('tutti pull', () => {
  const noSignals = process.platform === 'win32' && 'Windows has no SIGINT that another process could send'
  it('stops by Ctrl-C with exit code 130, then goes on, and prints the folder', { skip: noSignals }, async () => {
    const stopped = await run(['gpt-oss-20b'], child => {
      server.fault = (answer, { at }) => {
        if (at !== 'link') return
        answer.stallAt = 1000
        setTimeout(() => child.kill('SIGINT'), 100)
      }
    })
    server.fault = undefined
    assert.equal(stopped.code, 130, stopped.stderr)
    assert.match(stopped.stderr, /^pulling gpt-oss-20b\nstopped; tutti pull gpt-oss-20b goes on where it was\n$/)
    assert.equal(stopped.stdout, '')

    const { code, stdout, stderr } = await run(['gpt-oss-20b'])
    assert.equal(code, 0, stderr)
    assert.match(stderr, /^pulling gpt-oss-20b\nopenai\/gpt-oss-20b at [0-9a-f]{8} is there and whole: 0\.00 GB, /)
    assert.ok(existsSync(join(stdout.trim(), 'model.safetensors')))
  })

  /** Two processes at once, while the server keeps the weights back; `act` when the second one waits for the first. */
  async function two(act: (first: ChildProcess) => void): Promise<{ first: Ended; second: Ended; numBodies: number }> {
    let holding = true
    server.fault = (answer, { at, before }) => {
      if (at === 'link' && holding && before === 0) answer.stallAt = 1000
    }
    let second: Promise<Ended> | undefined
    const first = await run(['gpt-oss-20b'], child => {
      const started = setInterval(() => {
        if (!server.log.some(({ at }) => at === 'link')) return
        clearInterval(started)
        second = run(['gpt-oss-20b'], (_, printed) => {
          const waiting = setInterval(() => {
            if (!printed.stderr.includes('waiting for it')) return
            clearInterval(waiting)
            holding = false
            act(child)
          }, 20)
        })
      }, 20)
    })
    server.fault = undefined
    const numBodies = server.log.filter(({ at }) => at === 'link').length
    return { first, second: await second!, numBodies }
  }
  const waited = /^pulling gpt-oss-20b\nanother tutti \(process \d+\) downloads the same file: waiting for it\n/

  it('waits for another process that downloads the same model, and both end right', async () => {
    process.env.HF_HUB_DOWNLOAD_TIMEOUT = '1'
    const { first, second, numBodies } = await two(() => {})
    delete process.env.HF_HUB_DOWNLOAD_TIMEOUT
    assert.deepEqual([first.code, second.code], [0, 0], first.stderr + second.stderr)
    assert.equal(first.stdout, second.stdout)
    assert.match(first.stderr, /^pulling gpt-oss-20b\nthe connection broke: nothing came for 1 s; trying again/)
    assert.match(second.stderr, waited)
    assert.match(second.stderr, /nothing had to be downloaded\n$/)
    assert.equal(numBodies, 2, 'one that stalled, and the rest')
  })

  it('goes on where the process that it waited for was killed', { skip: noSignals }, async () => {
    const { first, second } = await two(child => child.kill('SIGKILL'))
    assert.equal(first.code, null)
    assert.equal(second.code, 0, second.stderr)
    assert.match(second.stderr, waited)
    assert.match(second.stderr, /is there and whole: 0\.00 GB, 0\.00 of them downloaded now\n$/)
    assert.ok(readFileSync(join(second.stdout.trim(), 'model.safetensors')).equals(files['model.safetensors']))
  })

  const failures: [args: string[], says: RegExp, code?: number][] = [
    [[], /give one model: tutti pull gpt-oss-20b/, 2],
    [['gpt-oss-20b', 'gpt-oss-120b'], /give one model/, 2],
    [['openai/gpt-oss-7b'], /127\.0\.0\.1:\d+ has no .*openai\/gpt-oss-7b.*check the name/],
    [['gpt-oss-20b', '--layout=original'], /has no original\/config\.json/],
    [['gpt'], /"gpt" is no model of a hub: say gpt-oss-20b/],
  ]
  for (const [args, says, expected = 1] of failures) {
    it(`fails with "${args.join(' ')}" in one sentence`, async () => {
      const { code, stdout, stderr } = await run(args)
      assert.equal(code, expected)
      assert.match(stderr, says)
      assert.equal(stdout, '')
    })
  }
})

describe('its progress', () => {
  const base = { step: 'downloading', file: 'a', doneBytes: 4.12e9, totalBytes: 13.79e9, checkedBytes: 1e9 } as const
  it('shows bytes, speed and time left', () => {
    assert.equal(showPull(base), '4.12 of 13.79 GB')
    assert.equal(
      showPull({ ...base, bytesPerSecond: 98.4e6, secondsLeft: 98.2 }),
      '4.12 of 13.79 GB, 98.4 MB/s, 99 s left',
    )
    assert.equal(
      showPull({ ...base, step: 'checking', bytesPerSecond: 1.2e9, secondsLeft: 6000 }),
      'checking a, 1.00 of 13.79 GB, 1200 MB/s, 2 h left',
    )
  })
})
