import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, it } from 'node:test'
import { answering, FakeShell, harmony } from './testing.ts'

const up = '\x1b[A'
const down = '\x1b[B'
const ctrlC = '\x03'
const ctrlD = '\x04'

/** What a terminal would show: without colours, cursor movements and redrawn status lines. */
const visible = (text: string) => text.replace(/\r\x1b\[2K/g, '').replace(/\x1b\[[\d;]*[A-Za-z]/g, '')

/** A chat at a terminal. `say` types a line and waits until the next prompt stands there. */
async function atTerminal(script: ConstructorParameters<typeof FakeShell>[0], ...args: string[]) {
  const shell = new FakeShell(script, { tty: true, info: { model: 'gpt-oss-nano' } })
  const running = shell.run('chat', ...args)
  const prompts = () => shell.printed.stderr.split('> ').length - 1
  const atPrompt = (count: number) => shell.until(() => prompts() >= count)
  await atPrompt(1)
  const type = async (keys: string) => {
    const before = prompts()
    shell.type(keys)
    await atPrompt(before + 1)
  }
  return { shell, running, type, say: (line: string) => type(`${line}\r`) }
}

describe('tutti chat with a prompt', () => {
  it('answers it and ends', async () => {
    const shell = new FakeShell([answering('Hello.')], { info: { model: 'gpt-oss-nano' } })
    const { code, stdout, stderr } = await shell.run('chat', 'Say', 'hello')
    assert.equal(code, 0)
    assert.equal(stdout, 'Hello.\n')
    assert.match(stderr, /^gpt-oss-nano is a tiny demonstration model.*\n$/)
    assert.match(shell.prompt(), /<\|message\|>Say hello<\|end\|>/)
    assert.ok(shell.engine.closed)
  })

  it('Ctrl-C ends it with exit code 130', async () => {
    const shell = new FakeShell([
      { tokens: harmony(`<|channel|>final<|message|>One${' more'.repeat(999)}`), delayMs: 2 },
    ])
    const running = shell.run('chat', 'Hi')
    await shell.until('One')
    shell.interrupt()
    assert.equal((await running).code, 130)
  })
})

describe('tutti chat --session', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tutti-chat-'))
  after(() => rmSync(folder, { recursive: true, force: true }))
  const path = join(folder, 'a.session')
  const begin = async (...args: string[]) => {
    rmSync(path, { force: true })
    const shell = new FakeShell([answering('Hello.')], { info: { model: 'gpt-oss-20b' } })
    return shell.run('chat', `--session=${path}`, ...args, 'I am Mia.')
  }
  const goOn = async (...args: string[]) => {
    const shell = new FakeShell([answering('Mia.')], { info: { model: 'gpt-oss-20b' } })
    return { shell, ...(await shell.run('chat', `--session=${path}`, ...args, 'Who am I?')) }
  }

  it('goes on where the last chat ended, with its instructions', async () => {
    const { code, stdout, stderr } = await begin('--developer=Be kind.', '--reasoning=high')
    assert.deepEqual([code, stdout], [0, 'Hello.\n'])
    assert.match(stderr, /^\d+ tokens are kept in .*a\.session\n$/)
    const next = await goOn()
    assert.match(next.stderr, /^the conversation in .*a\.session goes on: \d+ tokens\n\d+ tokens are kept/)
    assert.match(
      next.shell.prompt(),
      /Reasoning: high.*Be kind\..*I am Mia\..*Hello\..*Who am I\?<\|end\|><\|start\|>assistant$/s,
    )
    assert.equal(next.shell.prompt().split('Be kind.').length, 2)
  })

  it('instructions that are given anew take the place of those that were saved', async () => {
    await begin('--developer=Be kind.', '--reasoning=high')
    const prompt = (await goOn('--developer=Be brief.', '--reasoning=low')).shell.prompt()
    assert.match(prompt, /Reasoning: low.*Be brief\..*I am Mia\./s)
    assert.doesNotMatch(prompt, /Be kind|Reasoning: high/)
  })

  it('says why tokens have to run again, and what is no session ends it and stays as it is', async () => {
    await begin()
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), refused: 'another model' }))
    assert.match((await goOn()).stderr, /^another model\n/)
    writeFileSync(path, JSON.stringify({ tokens: [1], note: '{}' }))
    const { code, stderr } = await goOn()
    assert.deepEqual([code, stderr.includes('holds tokens and no conversation')], [1, true])
    assert.equal(readFileSync(path, 'utf8'), '{"tokens":[1],"note":"{}"}')
    const lost = new FakeShell([answering('Hello.')])
    assert.match((await lost.run('chat', `--session=${path}/b`, 'Hi')).stderr, /cannot be written: there is no folder/)
    assert.equal(lost.engine.requests.length, 0)
  })
})

describe('tutti chat at the end of a pipe', () => {
  it('takes each line as a turn of one conversation and prints answers alone', async () => {
    const shell = new FakeShell([answering('Hello.'), answering('Mia.')], { input: 'I am Mia.\n\nWho am I?' })
    const { code, stdout, stderr } = await shell.run('chat')
    assert.deepEqual({ code, stdout, stderr }, { code: 0, stdout: 'Hello.\nMia.\n', stderr: '' })
    assert.match(
      shell.prompt(),
      /<\|start\|>user<\|message\|>I am Mia\.<\|end\|><\|start\|>assistant<\|channel\|>final<\|message\|>Hello\.<\|end\|><\|start\|>user<\|message\|>Who am I\?<\|end\|><\|start\|>assistant$/s,
    )
  })

  it('puts back the very tokens that the model wrote', async () => {
    // "Hello" as two tokens, where the tokenizer would write one.
    const odd = [
      ...harmony('<|channel|>final<|message|>'),
      ...harmony('Hel'),
      ...harmony('lo'),
      ...harmony('<|return|>'),
    ]
    const shell = new FakeShell([odd, answering('')], { input: 'One\nTwo' })
    await shell.run('chat')
    const prompt = shell.engine.requests[1].tokens.join(' ')
    assert.ok(prompt.includes([...harmony('Hel'), ...harmony('lo<|end|>')].join(' ')), prompt)
  })

  it('says when the oldest turns leave, and goes on', async () => {
    const shell = new FakeShell([answering('Well.')], {
      input: ['a', 'b', 'c', 'd'].map(letter => `${`${letter} `.repeat(30)}\n`).join(''),
      info: { contextLength: 240 },
    })
    const { code, stdout, stderr } = await shell.run('chat')
    assert.equal(code, 0)
    assert.equal(stdout, 'Well.\n'.repeat(4))
    assert.equal(stderr, '[the context of 240 tokens is full: the oldest turn left the conversation]\n'.repeat(2))
    assert.match(
      shell.prompt(),
      /^<\|start\|>system.*<\|start\|>user<\|message\|>c c.*<\|start\|>user<\|message\|>d d/s,
    )
  })

  it('stops at a line that cannot fit, with both numbers', async () => {
    const shell = new FakeShell([answering('Well.')], {
      input: `${'word '.repeat(100)}\nHi\n`,
      info: { contextLength: 150 },
    })
    const { code, stderr } = await shell.run('chat')
    assert.equal(code, 1)
    assert.match(stderr, /^tutti: the prompt has 16\d tokens and the context holds 150/)
  })

  it('answers a call of a tool that does not exist, and lets the model go on', async () => {
    const call = harmony('<|channel|>commentary to=functions.look <|constrain|>json<|message|>{}<|call|>')
    const shell = new FakeShell([call, answering('Without it, then.')], { input: 'Look!' })
    const { stdout, stderr } = await shell.run('chat')
    assert.equal(stdout, 'Without it, then.\n')
    assert.match(stderr, /the model calls functions\.look with \{\}/)
    assert.match(
      shell.prompt(),
      /<\|start\|>functions\.look to=assistant<\|channel\|>commentary<\|message\|>There is no tool functions\.look here/,
    )
  })

  it('does not go on for ever with a model that calls and calls', async () => {
    const call = harmony('<|channel|>commentary to=functions.look <|constrain|>json<|message|>{}<|call|>')
    const shell = new FakeShell([call], { input: 'Look!' })
    assert.equal((await shell.run('chat')).code, 0)
    assert.equal(shell.engine.requests.length, 4)
  })

  it('survives recipients that no header could carry', async () => {
    const call = harmony('<|channel|>commentary to=a|b=c:d <|constrain|>json<|message|>{}<|call|>')
    const shell = new FakeShell([call, answering('Well.')], { input: 'Look!\nAgain!' })
    const { code, stdout } = await shell.run('chat')
    assert.equal(code, 0)
    assert.match(stdout, /Well\./)
  })
})

describe('tutti chat at a terminal', () => {
  it('says at its start model, device, context, reasoning and what nano is', async () => {
    const { shell, running, say } = await atTerminal([answering('Hello.')])
    await say('Hi')
    shell.type(ctrlD)
    const { code, stdout, stderr } = await running
    assert.equal(code, 0)
    assert.equal(visible(stdout), 'Hello.\n')
    assert.match(
      visible(stderr),
      /gpt-oss-nano on the script device, context 131,072 tokens, reasoning low\n.*tiny demonstration model/,
    )
  })

  it('brings back earlier lines with the arrow keys', async () => {
    const { shell, running, say } = await atTerminal([answering('Well.')])
    await say('first')
    await say('second')
    shell.type(`${up}${up}${down}${up}!\r`)
    await shell.until(() => shell.engine.requests.length === 3)
    shell.type(ctrlD)
    await running
    assert.match(shell.prompt(), /<\|message\|>first!<\|end\|><\|start\|>assistant$/)
  })

  it('Ctrl-C stops the answer and not the program; what was said stays in the conversation', async () => {
    const long = { tokens: harmony(`<|channel|>final<|message|>One${' more'.repeat(999)}`), delayMs: 2 }
    const { shell, running, say } = await atTerminal([long, answering('Fine.')])
    shell.type('Count\r')
    await shell.until('One more')
    shell.interrupt()
    await shell.until('[stopped]')
    shell.interrupt() // a moment too late
    await say('Thanks')
    shell.type(ctrlD)
    assert.equal((await running).code, 0)
    assert.match(
      shell.prompt(),
      /<\|message\|>Count<\|end\|><\|start\|>assistant<\|channel\|>final<\|message\|>One more/,
    )
    assert.match(visible(shell.printed.stdout), /Fine\.\n$/)
  })

  it('Ctrl-C empties a line; the second at an empty prompt leaves', async () => {
    const { shell, running, type, say } = await atTerminal([answering('Well.')])
    shell.type('never sent')
    shell.type(ctrlC)
    await type(ctrlC)
    assert.match(visible(shell.printed.stderr), /Ctrl-C again leaves/)
    await say('sent')
    await type(ctrlC)
    shell.type(ctrlC)
    assert.equal((await running).code, 0)
    assert.equal(shell.engine.requests.length, 1)
    assert.match(shell.prompt(), /<\|message\|>sent<\|end\|>/)
  })

  it('takes lines pasted at once as one message, and what follows the last of them as still being typed', async () => {
    const { shell, running, say } = await atTerminal([answering('Well.')])
    await say('one\rtwo\rthr')
    await say('ee')
    shell.type(ctrlD)
    await running
    assert.match(shell.prompt(0), /<\|message\|>one\ntwo\nthr<\|end\|>/)
  })

  it('knows its commands', async () => {
    const { shell, running, say } = await atTerminal([answering('Well.')])
    await say('remember this')
    await say('/reasoning')
    await say('/reasoning high')
    await say('/reset')
    await say('/frobnicate')
    await say('/help')
    await say('/etc/hosts is what?')
    shell.type('/quit\r')
    assert.equal((await running).code, 0)
    const { stderr } = shell.printed
    assert.match(stderr, /reasoning is low; say/)
    assert.match(stderr, /a new conversation begins/)
    assert.match(stderr, /there is no command \/frobnicate/)
    assert.match(stderr, /\/quit +leave/)
    assert.equal(shell.engine.requests.length, 2)
    assert.match(shell.prompt(), /Reasoning: high/)
    assert.doesNotMatch(shell.prompt(), /remember this/)
  })

  it('a prompt that cannot fit is told and forgotten, and the chat goes on', async () => {
    const shell = new FakeShell([answering('Well.')], { tty: true, info: { contextLength: 150 } })
    const running = shell.run('chat')
    await shell.until('> ')
    shell.type(`${'word '.repeat(100)}\r`)
    await shell.until('the context holds 150')
    shell.type('Hi\r')
    await shell.until('Well.')
    shell.type(ctrlD)
    assert.equal((await running).code, 0)
  })

  it('shows progress that leaves nothing behind, and no control character of the model', async () => {
    const { shell, running, say } = await atTerminal([answering('Be\x1b]0;evil\x07ware\u009b')])
    await say('Hi')
    shell.type(ctrlD)
    await running
    assert.match(shell.printed.stderr, /reading the prompt: 0 of 68 tokens/)
    assert.match(shell.printed.stderr, /thinking: \d+ tokens/)
    assert.equal(shell.printed.stdout, 'Be␛]0;evil␇ware␡\n')
    assert.doesNotMatch(visible(shell.printed.stderr.split('\r\x1b[2K').at(-1) ?? ''), /thinking|reading/)
  })
})
