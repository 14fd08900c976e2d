import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Side, takeMeasures } from './side.ts'

/** A side that only writes down what it was asked. */
function fakeSide() {
  const asked: string[] = []
  const side: Side = {
    vocabSize: 1000,
    firstToken: async tokens => void asked.push(`first of ${tokens.length}`),
    async generate(tokens, count) {
      asked.push(`${count} behind ${tokens.length}`)
      return 7
    },
    fill: async tokens => void asked.push(`fill ${tokens.length}`),
  }
  const open = async (contextLength: number) => {
    asked.push(`open ${contextLength}`)
    return side
  }
  return { asked, open }
}

test('measures of one process share the model, warmed up, with a context that holds the longest prompt', async () => {
  const { asked, open } = fakeSide()
  const values = await takeMeasures(['decode', 'prefill-64', 'prefill-2048'], Date.now(), open)
  assert.deepEqual(asked, ['open 2304', '8 behind 16', '64 behind 16', 'first of 64', 'first of 2048'])
  assert.equal(values.decode, 7)
  assert.ok(values['prefill-2048'] > 0)
})

test('a start is the first thing that a process does', async () => {
  const { asked, open } = fakeSide()
  const { start } = await takeMeasures(['start'], Date.now() - 2000, open)
  assert.deepEqual(asked, ['open 768', 'first of 50'])
  assert.ok(start >= 2 && start < 60, `${start}`)
})

test('memory is looked at with a full context', {
  skip: process.platform !== 'linux' && 'only Linux tells',
}, async () => {
  const { asked, open } = fakeSide()
  const values = await takeMeasures(['memory'], Date.now(), open)
  assert.deepEqual(asked, ['open 4096', '8 behind 16', 'fill 4095'])
  assert.ok(values.memory > 0.005 && values['memory-mapped'] > 0.005, JSON.stringify(values))
})

test('what no peer takes is refused', async () => {
  await assert.rejects(takeMeasures(['sessions-8'], 0, fakeSide().open), /sessions-8 is not taken beside a peer/)
})
