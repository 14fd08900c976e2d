import assert from 'node:assert/strict'
import { test } from 'node:test'
import { plant, runNode } from '../planted.ts'
import { mistakes } from './mistakes.ts'

test('the sound source is within bounds on every case', async () => {
  const { code, stdout } = await plant([], folder => runNode(folder, ['test/logits/off.ts']))
  assert.equal(code, 0, stdout)
  assert.equal(stdout.trim().split('\n').length, 9)
})

assert.equal(mistakes.length, 39)
for (const mistake of mistakes) {
  test(`the goldens find the mistake: ${mistake.what}`, async t => {
    const { code, stdout, stderr } = await plant([mistake], folder => runNode(folder, ['test/logits/off.ts']))
    assert.equal(code, 1, `${stdout}${stderr}`)
    const found = /^(\S+) (\S+)$/.exec(stdout.trim().split('\n').at(-1) ?? '')
    assert.ok(found, stderr) // it ended in a comparison, not in an exception
    t.diagnostic(`${found[1]} is off by ${Number(found[2]).toPrecision(2)}`)
  })
}
