import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { describe, it } from 'node:test'

const root = join(import.meta.dirname, '../..')
const tutti = ['--conditions=tutti-source', join(root, 'src/cli/main.ts')]
const noPython =
  spawnSync('python3', ['-c', 'import pty']).status === 0 ? false : 'needs python3 with pty for a terminal'

/** As at a person's terminal, wherever the tests run: their runner and CI services set these for their own ends. */
const plain = {
  ...process.env,
  TERM: 'xterm-256color',
  ...{ FORCE_COLOR: undefined, NO_COLOR: undefined, CI: undefined, NODE_TEST_CONTEXT: undefined },
}

interface Ended {
  code: number | null
  stdout: string
  stderr: string
}

function start(args: string[], env: Record<string, string> = {}): { child: ChildProcess; ended: Promise<Ended> } {
  const child = spawn(process.execPath, [...tutti, ...args], { cwd: root, env: { ...plain, ...env } })
  const printed = { stdout: '', stderr: '' }
  child.stdout.on('data', chunk => (printed.stdout += chunk))
  child.stderr.on('data', chunk => (printed.stderr += chunk))
  const { promise, resolve, reject } = Promise.withResolvers<Ended>()
  child.on('error', reject)
  child.on('close', code => resolve({ code, ...printed }))
  return { child, ended: promise }
}

function run(args: string[], input = '', env?: Record<string, string>): Promise<Ended> {
  const { child, ended } = start(args, env)
  child.stdin?.end(input)
  return ended
}

/** Plays a person at a terminal; terminal.py describes the steps. */
async function atTerminal(steps: ['wait' | 'send', string][], args: string[], env: Record<string, string> = {}) {
  const child = spawn(
    'python3',
    [join(import.meta.dirname, 'terminal.py'), JSON.stringify(steps), process.execPath, ...tutti, ...args],
    { cwd: root, env: { ...plain, ...env } },
  )
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', chunk => (stdout += chunk))
  child.stderr.on('data', chunk => (stderr += chunk))
  const [code] = await new Promise<[number]>(resolve => child.on('close', code => resolve([code ?? 1])))
  assert.equal(code, 0, stderr)
  return JSON.parse(stdout) as { shown: string; code: number }
}

describe('the tutti command', () => {
  it('answers the lines of a pipe, without colours or progress', async () => {
    const { code, stdout, stderr } = await run(['chat'], 'What is the capital of France?\n')
    assert.equal(code, 0)
    assert.equal(stdout, 'The capital of France is Paris.\n')
    assert.match(stderr, /^gpt-oss-nano is a tiny demonstration model: [^\x1b\r]*\n$/)
  })

  it('text goes to ids and back through a pipe', async () => {
    const text = 'Übergrößen 🎶\n<|start|>\tx'
    const { stdout: ids } = await run(['tokens', '--ids'], text)
    assert.equal((await run(['tokens', '--decode'], ids)).stdout, text)
  })

  it('a reader that has seen enough is no failure', async () => {
    const { child, ended } = start(['tokens'])
    child.stdout?.once('data', () => child.stdout?.destroy())
    child.stdin?.on('error', () => {})
    child.stdin?.end('many different words '.repeat(200_000))
    const { code, stderr } = await ended
    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' })
  })

  it('wrong usage ends with exit code 2, a missing model with 1, each in one sentence', async () => {
    assert.deepEqual(await run(['chat', '--bogus']), {
      code: 2,
      stdout: '',
      stderr: 'tutti: there is no option --bogus (see tutti chat --help)\n',
    })
    const { code, stderr } = await run(['generate', '--model=./nowhere', 'Hi'])
    assert.equal(code, 1)
    assert.match(stderr, /^tutti: there is no folder [^\n]*\/nowhere: give the folder [^\n]*\n$/)
  })

  it('TUTTI_DEBUG says where an error comes from', async () => {
    const { stderr } = await run(['generate', '--model=./nowhere', 'Hi'], '', { TUTTI_DEBUG: '1' })
    assert.match(stderr, /^tutti: RequestError: there is no folder .*\n +at /)
  })

  it('Ctrl-C ends generate with exit code 130, at once', async () => {
    const { child, ended } = start(['generate', '--raw', 'What is MXFP4?'])
    child.stdout?.once('data', () => child.kill('SIGINT'))
    const { code, stdout } = await ended
    assert.equal(code, 130)
    assert.ok(stdout.length < 100, stdout)
  })
})

describe('tutti chat at a real terminal', { skip: noPython }, () => {
  it('Ctrl-C stops the answer and not the program, and the arrow key brings the question back', async () => {
    const { shown, code } = await atTerminal(
      [
        ['wait', '> '],
        ['send', 'What is MXFP4?\r'],
        ['wait', 'MXFP4 is'],
        ['send', '\x03'],
        ['wait', '[stopped]'],
        ['wait', '> '],
        ['send', '\x1b[A'],
        ['wait', 'What is MXFP4?'],
        ['send', '\x15What is the capital of Italy?\r'],
        ['wait', 'The capital of Italy is Rome.'],
        ['wait', '> '],
        ['send', '\x04'],
      ],
      ['chat'],
      { NO_COLOR: '1' },
    )
    assert.equal(code, 0)
    assert.doesNotMatch(shown, /\x1b\[[\d;]*m/, 'NO_COLOR is respected')
  })

  it('a second Ctrl-C at the empty prompt leaves', async () => {
    const { shown, code } = await atTerminal(
      [
        ['wait', '> '],
        ['send', 'unsent'],
        ['send', '\x03'],
        ['send', '\x03'],
        ['wait', 'Ctrl-C again'],
        ['wait', '> '],
        ['send', '\x03'],
      ],
      ['chat'],
    )
    assert.equal(code, 0)
    assert.match(shown, /\x1b\[2mgpt-oss-nano on the (cpu \(.*\)|reference) device/)
  })
})
