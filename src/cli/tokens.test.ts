import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { FakeShell } from './testing.ts'

const cases: { args: string[]; input?: string; stdout: string }[] = [
  {
    args: ['What is', 'MXFP4?'],
    stdout: '  4827  "What"\n   382  " is"\n 49414  " MX"\n 20174  "FP"\n    19  "4"\n    30  "?"\n',
  },
  { args: ['--ids'], input: 'What is MXFP4?', stdout: '4827 382 49414 20174 19 30\n' },
  { args: ['--ids'], input: '', stdout: '\n' },
  { args: ['--json', 'Hi\n'], stdout: '{"ids":[12194,198],"pieces":["\\"Hi\\"","\\"\\\\n\\""]}\n' },
  { args: ['--decode', '4827', '382'], stdout: 'What is' },
  { args: ['--decode'], input: '[4827, 382]\n', stdout: 'What is' },
  { args: ['--decode', '--json', '200006,1428,200008'], stdout: '{"text":"<|start|>user<|message|>"}\n' },
  { args: ['--special', '--ids', '<|start|>user'], stdout: '200006 1428\n' },
  { args: ['--ids', '<|start|>'], stdout: '27 91 5236 91 29\n' },
  { args: ['--special', '<|call|>'], stdout: '200012  <|call|>\n' },
  { args: ['🧮'], stdout: '  4103  <f0 9f>\n   100  <a7>\n   106  <ae>\n' },
]

describe('tutti tokens', () => {
  for (const { args, input, stdout } of cases) {
    it(`${JSON.stringify(args)} prints ${JSON.stringify(stdout)}`, async () => {
      assert.deepEqual(await new FakeShell([[]], { input }).run('tokens', ...args), { code: 0, stdout, stderr: '' })
    })
  }

  it('refuses ids that are none', async () => {
    for (const [word, complaint] of [
      ['x1', /"x1" is not a token id/],
      ['300000', /300000 does not exist/],
    ] as const) {
      const { code, stderr } = await new FakeShell().run('tokens', '--decode', '1', word)
      assert.equal(code, 1)
      assert.match(stderr, complaint)
    }
  })
})
