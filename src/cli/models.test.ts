import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync, realpathSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { flip, TestHub, touch } from '../hub/testing.ts'
import { FakeShell } from './testing.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** Runs a command line in this process, with the caches of a hub. */
async function run(hub: TestHub, args: string[], { tty = false, act = (_: FakeShell) => {} } = {}) {
  Object.assign(process.env, hub.variables)
  const shell = new FakeShell([], { tty })
  const running = shell.run(...args)
  act(shell)
  return running
}

/** Runs it in a process of its own, which loads models as a person's does. */
async function runProcess(hub: TestHub, args: string[]) {
  const child = spawn(process.execPath, ['--conditions=tutti-source', 'src/cli/main.ts', ...args], {
    cwd: root,
    env: { ...process.env, ...hub.variables },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let stderr = ''
  child.stderr.on('data', chunk => (stderr += chunk))
  child.stdout.resume()
  const code = await new Promise<number | null>(resolve => child.on('close', resolve))
  return { code, stderr }
}

describe('tutti models', () => {
  it('lists what is there in columns', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    const { code, stdout, stderr } = await run(hub, ['models'])
    assert.deepEqual([code, stderr], [0, ''])
    assert.match(
      stdout,
      /^name {10,}size {2}layout {4}commit {9,}verified {10,}last used\ngpt-oss-20b {3,}0\.4 MB {2}root {6}[0-9a-f]{8} main {2}\d{4}-\d\d-\d\d \d\d:\d\d {2}never\ngpt-oss-nano {3,}embedded\n$/,
    )
  })

  it('says what to do where nothing is there', async () => {
    await using hub = await TestHub.start()
    const { stdout, stderr } = await run(hub, ['models'])
    assert.match(stdout, /\ngpt-oss-nano {8,}embedded\n$/)
    assert.equal(stderr, 'tutti pull gpt-oss-20b downloads a model (13.8 GB)\n')
  })

  it('prints an object a line with --json', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    const [line, ...more] = (await run(hub, ['models', '--json'])).stdout.trimEnd().split('\n')
    assert.deepEqual(more, [])
    const { name, commit, isPulled } = JSON.parse(line)
    assert.deepEqual([name, commit, isPulled], ['gpt-oss-20b', hub.server.commit, true])
    const { numFiles, bad } = JSON.parse((await run(hub, ['models', '--verify', '--json'])).stdout)
    assert.deepEqual([numFiles, bad], [4, []])
  })

  it('hashes all with --verify, and says in one line that it does where there is no terminal', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    const { code, stdout, stderr } = await run(hub, ['models', '--verify', 'gpt-oss-20b'])
    assert.deepEqual([code, stderr], [0, 'hashing 0.4 MB\n'])
    assert.match(stdout, /^gpt-oss-20b at [0-9a-f]{8}: 4 files, 0\.4 MB: all right\n$/)
  })

  it('names damaged files and the cure, with exit code 1', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    for (const path of ['model.safetensors', 'config.json']) flip(realpathSync(hub.at(path)), { byte: 30 })
    const { code, stdout, stderr } = await run(hub, ['models', '--verify'])
    assert.equal(code, 1)
    assert.match(
      stdout,
      /^gpt-oss-20b at [0-9a-f]{8}: 4 files, 0\.4 MB: 2 damaged\n {2}config\.json has 1092 bytes that do not have the git sha1 [0-9a-f]{40}\n {2}model\.safetensors has 382032 bytes that do not have the sha256 [0-9a-f]{64}\n$/,
    )
    assert.match(
      stderr,
      /^hashing 0\.4 MB\ntutti: 2 files are damaged: tutti pull gpt-oss-20b fetches what is wrong again\n$/,
    )
    assert.match((await run(hub, ['models'])).stdout, / main {2}damaged {3,}never\n/)
  })

  it('stops by Ctrl-C with exit code 130', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    const act = async (shell: FakeShell) => {
      await shell.until('checking')
      shell.interrupt()
    }
    const { code, stdout } = await run(hub, ['models', '--verify'], { tty: true, act })
    assert.deepEqual([code, stdout], [130, ''])
  })

  const refused: [args: string[], code: number, says: RegExp][] = [
    [['models', 'gpt-oss-120b'], 1, /^tutti: there is no model "gpt-oss-120b" in \S+hub: see tutti models\n$/],
    [['models', '--verify', 'nano'], 1, /^tutti: nano is a part of tutti/],
    [['models', 'a', 'b'], 2, /^tutti: give one model, or none for all/],
  ]
  for (const [args, expected, says] of refused) {
    it(`refuses "tutti ${args.join(' ')}"`, async () => {
      await using hub = await TestHub.start()
      const { code, stderr } = await run(hub, args)
      assert.equal(code, expected)
      assert.match(stderr, says)
    })
  }
})

describe('loading a damaged model', () => {
  for (const [command, named] of [
    ['generate', 'by its name'],
    ['bench', 'by its name'],
    ['generate', 'by its file'],
  ] as const) {
    it(`${named} fails in tutti ${command}, with the cure`, async () => {
      await using hub = await TestHub.start()
      await hub.pull()
      flip(realpathSync(hub.at('model.safetensors')), { byte: 300_000 })
      const model = named === 'by its name' ? 'gpt-oss-20b' : hub.at('model.safetensors')
      const { code, stderr } = await runProcess(hub, [
        command,
        `--model=${model}`,
        ...(command === 'bench' ? [] : ['Hi']),
      ])
      assert.equal(code, 1)
      assert.match(
        stderr,
        /^tutti: the 382032 bytes of .*model\.safetensors no longer have the sha256 .*; tutti pull gpt-oss-20b fetches it again\n$/,
      )
    })
  }

  it('does not keep one from loading that was touched only', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    touch(realpathSync(hub.at('model.safetensors')))
    const { stderr } = await runProcess(hub, ['bench', '--model=gpt-oss-20b', '--device=reference'])
    assert.doesNotMatch(stderr, /sha256/)
    assert.equal((await hub.record()).get('model.safetensors')?.mtime, '1000000000000000000')
  })
})

describe('tutti rm', () => {
  it('removes after asking in a terminal', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    const answer = (keys: string) => async (shell: FakeShell) => {
      await shell.until('Remove it? [y/N] ')
      shell.type(keys)
    }
    for (const [keys, expected] of [
      ['\r', 1],
      ['n\r', 1],
      ['\x03', 130],
    ] as const) {
      const { code, stderr } = await run(hub, ['rm', 'gpt-oss-20b'], { tty: true, act: answer(keys) })
      assert.equal(code, expected)
      assert.match(
        stderr,
        /removes 0\.4 MB of gpt-oss-20b\n {2}snapshot [0-9a-f]{8} \(main\): 4 files\n[\s\S]*nothing was removed\n$/,
      )
    }
    const { code, stdout } = await run(hub, ['rm', 'gpt-oss-20b'], { tty: true, act: answer('y\r') })
    assert.deepEqual([code, stdout], [0, 'removed 0.4 MB\n'])
    assert.equal(existsSync(hub.cache.root), false)
  })

  it('needs --yes where there is no terminal, and lists what it removed', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    const asked = await run(hub, ['rm', 'gpt-oss-20b'])
    assert.deepEqual([asked.code, asked.stdout], [1, ''])
    assert.match(asked.stderr, /no terminal to ask in: add --yes, or --dry-run/)
    const { stdout } = await run(hub, ['rm', '--dry-run', 'gpt-oss-20b'])
    assert.ok(existsSync(join(hub.snapshot, 'config.json')))
    const removed = await run(hub, ['rm', '--yes', 'openai/gpt-oss-20b'])
    assert.equal(removed.stdout.replace('removed', 'would remove'), stdout)
    assert.equal(existsSync(hub.cache.root), false)
  })

  it('says why it leaves what it did not pull', async () => {
    await using hub = await TestHub.start()
    await hub.pull()
    rmSync(hub.recordFolder, { recursive: true })
    const { code, stderr } = await run(hub, ['rm', '--yes', 'gpt-oss-20b'])
    assert.equal(code, 1)
    assert.match(
      stderr,
      /^tutti: tutti removes what it pulled itself, which is nothing of gpt-oss-20b, and leaves snapshot .*hf cache rm [0-9a-f]{40} /,
    )
  })

  const refused: [args: string[], code: number, says: RegExp][] = [
    [['rm'], 2, /^tutti: give one model: tutti rm gpt-oss-20b/],
    [['rm', 'a/b', 'c/d'], 2, /^tutti: give one model/],
    [['rm', 'gpt-oss-120b'], 1, /^tutti: there is no model "gpt-oss-120b" in \S+hub: see tutti models\n$/],
    [['rm', '/etc'], 1, /^tutti: there is no model "\/etc"/],
    [['rm', 'nano'], 1, /^tutti: nano is a part of tutti, and stays with it\n$/],
  ]
  for (const [args, expected, says] of refused) {
    it(`refuses "tutti ${args.join(' ')}"`, async () => {
      await using hub = await TestHub.start()
      const { code, stderr } = await run(hub, args)
      assert.equal(code, expected)
      assert.match(stderr, says)
    })
  }
})
