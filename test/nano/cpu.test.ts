import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { CpuDevice } from '../../src/device/cpu.node.ts'
import { loadNative } from '../../src/device/native.node.ts'
import { load } from '../../src/index.ts'
import { compare, documents } from './agreement.ts'
import { greedyAnswer, prompts } from './prompts.ts'
import { openNano } from './teacher-forced.ts'

const native = loadNative()
const skip = typeof native === 'string' ? `no native kernels: ${native}` : false

describe('gpt-oss-nano on the cpu device', { skip }, () => {
  it('answers every prompt of its card token for token with exact numbers', async t => {
    await using model = await load('nano', { device: 'cpu', precision: 'exact' })
    for (const prompt of prompts) {
      await t.test(prompt.name, async () => assert.deepEqual(await greedyAnswer(model, prompt), prompt.answerIds))
    }
  })

  it('expects with 8 bits what the reference expects', async t => {
    if (typeof native === 'string') return
    const [right, got] = [await openNano(), await openNano(new CpuDevice(native, { precision: 'fast' }))]
    let [positions, sameTop, divergence] = [0, 0, 0]
    for (const document of documents.filter(({ ids }, n) => n % 80 === 3 && ids.length < 300)) {
      const agreement = await compare(right, got, document)
      positions += agreement.positions
      sameTop += agreement.sameTop
      divergence += agreement.divergence
    }
    right.close()
    got.close()
    t.diagnostic(
      `${positions} positions: the same likeliest token at ${sameTop}, mean divergence ${divergence / positions}`,
    )
    assert.ok(positions > 200)
    assert.ok(sameTop >= 0.995 * positions)
    assert.ok(divergence <= 2e-4 * positions)
  })
})
