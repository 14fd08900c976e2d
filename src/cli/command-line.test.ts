import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { CheckpointError, RequestError } from '../base/errors.ts'
import { commands } from './command-line.ts'
import { FakeShell } from './testing.ts'

const misuses: [args: string[], complaint: RegExp][] = [
  [[], /^tutti: say what to do: tutti chat, or tutti --help/],
  [['chatt'], /there is no command chatt; did you mean tutti chat\?/],
  [['sing'], /there is no command sing; see tutti --help/],
  [['chat', '--modle', 'x'], /there is no option --modle; did you mean --model\? \(see tutti chat --help\)/],
  [['chat', '-x'], /there is no option -x/],
  [['chat', '--toString'], /there is no option --toString/],
  [['chat', '--no-raw'], /there is no option --no-raw/],
  [['chat', '--model'], /--model needs a value: --model=NAME/],
  [['chat', '--developer', '--raw'], /--developer needs a value: --developer=TEXT/],
  [['chat', '--raw=yes'], /--raw takes no value/],
  [['chat', '--reasoning', 'some'], /--reasoning must be low, medium or high, not "some"/],
  [['chat', '--seed', '1.5'], /--seed must be a whole number from 0 on, not "1.5"/],
  [['chat', '--seed', '-1'], /--seed must be a whole number from 0 on, not "-1"/],
  [['chat', '--context', '0'], /--context must be a whole number from 1 on, not "0"/],
  [['chat', '--max-tokens=9007199254740993'], /--max-tokens must be a whole number/],
  [['chat', '--temperature', 'warm'], /--temperature must be a number from 0 on, not "warm"/],
  [['chat', '--temperature', ''], /--temperature must be a number from 0 on, not ""/],
]

describe('tutti', () => {
  for (const [args, complaint] of misuses) {
    it(`refuses "tutti ${args.join(' ')}" in one sentence, with exit code 2, before it loads anything`, async () => {
      const shell = new FakeShell()
      const { code, stdout, stderr } = await shell.run(...args)
      assert.equal(code, 2)
      assert.match(stderr, complaint)
      assert.equal(stderr.trimEnd().split('\n').length, 1)
      assert.equal(stdout, '')
      assert.deepEqual(shell.loads, [])
    })
  }

  it('prints its version', async () => {
    assert.match((await new FakeShell().run('--version')).stdout, /^\d+\.\d+\.\d+\n$/)
  })

  it('lists every command', async () => {
    const { code, stdout } = await new FakeShell().run('--help')
    assert.equal(code, 0)
    for (const { name, summary } of commands) assert.match(stdout, new RegExp(`^  ${name} +${summary}$`, 'm'))
  })

  for (const { name, options } of commands) {
    it(`explains every option of ${name} within 100 columns, with examples`, async () => {
      const { code, stdout } = await new FakeShell().run(name, '--help')
      assert.equal(code, 0)
      for (const option of Object.keys(options)) assert.match(stdout, new RegExp(`^  --${option}\\b`, 'm'))
      assert.match(stdout, new RegExp(`Examples:\n.*tutti ${name}`))
      for (const line of stdout.split('\n')) assert.ok(line.length <= 100, line)
    })
  }

  const failures: [Error, RegExp][] = [
    [new CheckpointError('the files are damaged'), /^tutti: the files are damaged\n$/],
    [new RequestError('there is no such model'), /^tutti: there is no such model\n$/],
    [
      new TypeError('x is not a function'),
      /^tutti: something unforeseen went wrong: x is not a function \(TUTTI_DEBUG/,
    ],
  ]
  for (const [error, sentence] of failures) {
    it(`says a ${error.name} in one sentence, with exit code 1`, async () => {
      const shell = new FakeShell()
      shell.load = () => Promise.reject(error)
      const { code, stdout, stderr } = await shell.run('chat', 'Hi')
      assert.equal(code, 1)
      assert.match(stderr, sentence)
      assert.equal(stdout, '')
    })
  }

  it('reads a prompt that begins with a dash after --', async () => {
    const shell = new FakeShell()
    assert.equal((await shell.run('generate', '--', '--help')).code, 0)
    assert.match(shell.prompt(), /<\|message\|>--help<\|end\|>/)
  })
})
