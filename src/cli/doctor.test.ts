import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { loadNative } from '../device/native.node.ts'
import { FakeShell } from './testing.ts'

const hasKernels = typeof loadNative() !== 'string'

describe('tutti doctor', () => {
  it('tells of a model that is there', async () => {
    const { code, stdout, stderr } = await new FakeShell().run(
      'doctor',
      '--model=nano',
      '--device=reference',
      '--context=1000',
    )
    assert.equal(code, 0, stderr)
    assert.equal(stderr, '')
    assert.match(stdout, /^This machine\n {2}processor {2,}\S.*\n/)
    assert.match(stdout, /\ngpt-oss-nano in \S+models\/nano: fits, but runs some hundred times slower/)
    assert.match(stdout, /\n {2,}1000 tokens of context, as was asked for\n/)
    assert.doesNotMatch(stdout, /NaN|undefined|Infinity/)
  })

  it('measures, and prints an object with --json', async () => {
    const { code, stdout } = await new FakeShell().run('doctor', '--model=nano', '--json')
    assert.equal(code, 0)
    const report = JSON.parse(stdout)
    assert.deepEqual(Object.keys(report), ['machine', ...(hasKernels ? ['speeds'] : []), 'models', 'advice'])
    const [model] = report.models
    assert.equal(model.name, 'gpt-oss-nano')
    assert.equal(model.chosen.verdict, 'fits')
    assert.equal(model.chosen.contextLength, model.needs.at(-1).contextLength)
    for (const { plan } of model.needs) {
      assert.equal(plan.total, plan.weights + plan.cache + plan.scratch + plan.garbage)
    }
    const rates = hasKernels ? [...model.speed.decode, ...model.speed.prefill] : []
    for (const { tokensPerSecond } of rates) assert.ok(tokensPerSecond > 0, stdout)
  })

  it('needs no files to tell of the published models', async () => {
    const { code, stdout } = await new FakeShell().run('doctor', '--device=reference', '--context=4096')
    assert.equal(code, 0)
    assert.match(stdout, /\ngpt-oss-20b .*: .*\n/)
    assert.match(stdout, /\ngpt-oss-120b .*: .*\n/)
    assert.match(stdout, / 12\.8 GiB | 13\.\d GiB /)
    assert.match((await new FakeShell().run('doctor', '--device=reference', '--model=gpt-oss-120b')).stdout, /120b/)
  })

  it('refuses what is no model, and more context than a model has', async () => {
    const empty = mkdtempSync(join(tmpdir(), 'tutti-doctor-'))
    try {
      for (const [args, complaint] of [
        [[`--model=${empty}`], /holds no \*\.safetensors/],
        [['--model=gpt-oss-70b'], /there is no model "gpt-oss-70b"/],
        [['--model=nano', '--context=900000'], /900000 tokens was asked for; this model has 1 to/],
      ] as const) {
        const { code, stdout, stderr } = await new FakeShell().run('doctor', ...args)
        assert.equal(code, 1)
        assert.equal(stdout, '')
        assert.match(stderr, complaint)
      }
    } finally {
      rmSync(empty, { recursive: true })
    }
  })
})
