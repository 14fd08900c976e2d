import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { CpuDevice } from '../../src/device/cpu.node.ts'
import { loadNative } from '../../src/device/native.node.ts'
import { ReferenceDevice } from '../../src/device/reference.ts'
import { load } from '../../src/index.ts'
import { Agreement, compare } from './agreement.ts'
import { greedyAnswer, prompts } from './prompts.ts'
import { documents, openSmallNano } from './small.ts'

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
    const models = {
      right: await openSmallNano(new ReferenceDevice()),
      got: await openSmallNano(new CpuDevice(native, { precision: 'fast' })),
    }
    const agreement = new Agreement()
    for (const document of documents.filter(({ ids }, n) => n % 80 === 3 && ids.length < 300)) {
      await compare(models, [{ right: 'right', got: 'got', agreement }], document)
    }
    models.right.close()
    models.got.close()
    t.diagnostic(`${agreement}`)
    assert.ok(agreement.positions > 200)
    assert.ok(agreement.sameTopShare >= 0.995)
    assert.ok(agreement.mean <= 2e-4)
  })
})
