import assert from 'node:assert/strict'
import { once } from 'node:events'
import { describe, it } from 'node:test'
import { DeviceError } from '../base/errors.ts'
import { answering, FakeShell, harmony } from './testing.ts'

const calling = harmony(
  '<|channel|>analysis<|message|>Look.<|end|><|start|>assistant<|channel|>commentary<|message|>One moment.<|end|>' +
    '<|start|>assistant<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"at":1}<|call|>',
)

describe('tutti generate', () => {
  it('prints the answer and nothing else to stdout', async () => {
    const { code, stdout, stderr } = await new FakeShell([answering('Paris.')]).run(
      'generate',
      'Capital',
      'of',
      'France?',
    )
    assert.deepEqual({ code, stdout, stderr }, { code: 0, stdout: 'Paris.\n', stderr: '' })
  })

  it('reads the prompt from stdin, without the end of its last line', async () => {
    const shell = new FakeShell([answering('Yes.')], { input: 'One\ntwo?\r\n' })
    assert.equal((await shell.run('generate')).stdout, 'Yes.\n')
    assert.match(shell.prompt(), /<\|start\|>user<\|message\|>One\ntwo\?<\|end\|><\|start\|>assistant$/)
  })

  it('refuses an empty prompt before it loads a model', async () => {
    const shell = new FakeShell([answering('')], { input: ' \n' })
    const { code, stderr } = await shell.run('generate')
    assert.equal(code, 1)
    assert.match(stderr, /the prompt is empty/)
    assert.deepEqual(shell.loads, [])
  })

  it('hands every option to where it works', async () => {
    const shell = new FakeShell()
    await shell.run(
      ...['generate', '--model=there', '--context=500', '--max-tokens=9', '--reasoning=high', '--developer=Be brief.'],
      ...['--seed=7', '--temperature=0.5', 'Hi'],
    )
    assert.deepEqual(shell.loads, [{ model: 'there', contextLength: 500 }])
    const { maxTokens, sampling } = shell.engine.requests[0]
    assert.equal(maxTokens, 9)
    assert.equal(sampling?.seed, 7)
    assert.equal(sampling?.temperature, 0.5)
    assert.match(
      shell.prompt(),
      /\n\nReasoning: high\n\n.*<\|start\|>developer<\|message\|># Instructions\n\nBe brief\.<\|end\|>/s,
    )
  })

  it('takes no chances with nano unless told to, and lets it think little', async () => {
    const shell = new FakeShell([answering('Hi.')], { info: { model: 'gpt-oss-nano' } })
    const { stderr } = await shell.run('generate', 'Hi')
    assert.match(stderr, /tiny demonstration model/)
    assert.equal(shell.engine.requests[0].sampling?.temperature, 0)
    assert.match(shell.prompt(), /\nReasoning: low\n/)
    const real = new FakeShell()
    await real.run('generate', 'Hi')
    assert.equal(real.engine.requests[0].sampling?.temperature, 1)
    assert.match(real.prompt(), /\nReasoning: medium\n/)
  })

  it('shows reasoning on stderr, and only if asked', async () => {
    const { stdout, stderr } = await new FakeShell([answering('Yes.', 'Secret.')]).run(
      'generate',
      '--show-reasoning',
      'Hi',
    )
    assert.deepEqual({ stdout, stderr }, { stdout: 'Yes.\n', stderr: 'Secret.\n' })
  })

  it('--raw prints the tokens as they are', async () => {
    const { stdout } = await new FakeShell([calling]).run('generate', '--raw', 'Hi')
    assert.equal(
      stdout,
      '<|channel|>analysis<|message|>Look.<|end|><|start|>assistant<|channel|>commentary<|message|>One moment.<|end|>' +
        '<|start|>assistant<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"at":1}<|call|>\n',
    )
  })

  it('tells of a call beside the words before it', async () => {
    const { stdout, stderr } = await new FakeShell([calling]).run('generate', 'Hi')
    assert.equal(stdout, 'One moment.\n')
    assert.equal(stderr, '[the model calls functions.look with {"at":1}]\n')
  })

  it('tells of repairs with --show-reasoning alone', async () => {
    const broken = harmony('<|channel|>final<|message|>Yes.<|message|>No.<|return|>')
    assert.equal((await new FakeShell([broken]).run('generate', 'Hi')).stderr, '')
    assert.match(
      (await new FakeShell([broken]).run('generate', '--show-reasoning', 'Hi')).stderr,
      /\[repaired at token 5: /,
    )
  })

  const endings = [
    { args: ['--max-tokens=6'], info: {}, note: '[the answer ends here: it has reached --max-tokens=6]\n' },
    { args: [], info: { contextLength: 75 }, note: '[the answer ends here: the context of 75 tokens is full]\n' },
  ]
  for (const { args, info, note } of endings) {
    it(`says why an answer ends early: ${note.trim()}`, async () => {
      const shell = new FakeShell([harmony(`<|channel|>final<|message|>${' word'.repeat(50)}`)], { info })
      const { code, stderr } = await shell.run('generate', ...args, 'Hi')
      assert.equal(code, 0)
      assert.equal(stderr, note)
    })
  }

  it('a prompt that does not fit is an error with both numbers', async () => {
    const { code, stderr } = await new FakeShell([[]], { info: { contextLength: 50 } }).run('generate', 'Hi')
    assert.equal(code, 1)
    assert.match(stderr, /^tutti: 68 tokens do not fit the context of 50/)
  })

  it('a device that fails ends the line that was begun', async () => {
    const error = new DeviceError('the device was lost')
    const shell = new FakeShell([{ tokens: harmony('<|channel|>final<|message|>One'), error }])
    const { code, stdout, stderr } = await shell.run('generate', 'Hi')
    assert.deepEqual({ code, stdout, stderr }, { code: 1, stdout: 'One\n', stderr: 'tutti: the device was lost\n' })
  })

  describe('--json', () => {
    const events = (stdout: string) =>
      stdout
        .trimEnd()
        .split('\n')
        .map(line => JSON.parse(line))
    const together = (stdout: string, type: string) =>
      events(stdout)
        .filter(event => event.type === type)
        .map(event => event.text)
        .join('')

    it('prints typed events, the end last, and no chain of thought', async () => {
      const { stdout } = await new FakeShell([calling]).run('generate', '--json', 'Hi')
      assert.equal(together(stdout, 'preamble'), 'One moment.')
      const [call, end] = events(stdout).slice(-2)
      assert.deepEqual(call, {
        type: 'call',
        recipient: 'functions.look',
        arguments: '{"at":1}',
        contentType: '<|constrain|>json',
        complete: true,
      })
      assert.deepEqual(end, {
        type: 'end',
        reason: 'stop',
        usage: { promptTokens: 68, cachedTokens: 0, completionTokens: calling.length },
      })
      assert.doesNotMatch(stdout, /Look/)
    })

    it('adds reasoning and tokens where they are asked for', async () => {
      const tokens = answering('Yes.', 'Because.')
      const { stdout } = await new FakeShell([tokens]).run('generate', '--json', '--show-reasoning', '--raw', 'Hi')
      assert.equal(together(stdout, 'analysis'), 'Because.')
      assert.equal(together(stdout, 'final'), 'Yes.')
      assert.deepEqual(
        events(stdout)
          .filter(event => event.type === 'token')
          .map(event => event.token),
        tokens,
      )
    })
  })

  it('Ctrl-C while the model is loaded ends it with exit code 130, and its line on the terminal goes', async () => {
    const shell = new FakeShell([], { tty: true })
    shell.load = async (_, { onProgress, signal }) => {
      onProgress?.(42, 100, 7.2)
      await once(signal!, 'abort')
      throw signal!.reason
    }
    const running = shell.run('generate', '--model=large', 'Hi')
    await shell.until('loading large: 42 %, 8 s left')
    shell.interrupt()
    const { code, stderr } = await running
    assert.equal(code, 130)
    assert.match(stderr, /left[^l]*\r\x1b\[2K$/)
  })

  it('Ctrl-C ends it with exit code 130 and keeps what was printed', async () => {
    const shell = new FakeShell([
      { tokens: harmony(`<|channel|>final<|message|>One${' more'.repeat(999)}`), delayMs: 2 },
    ])
    const running = shell.run('generate', 'Hi')
    await shell.until('One')
    shell.interrupt()
    const { code, stdout } = await running
    assert.equal(code, 130)
    assert.match(stdout, /^One.*\n$/)
    assert.ok(shell.engine.closed)
  })
})
