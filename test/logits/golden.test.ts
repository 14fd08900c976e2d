import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ReferenceDevice } from '../../src/device/reference.ts'
import type { Routing } from '../../src/kernels/ops.ts'
import {
  caseNames,
  difference,
  type Golden,
  numbers,
  openModel,
  paired,
  readGolden,
  recording,
  rowsOf,
  run,
  runChunked,
} from './golden.ts'

// float32 between operations and float64 inside them reaches 2e-6 to 2e-5 against float64 throughout.
const maxAbs = 5e-5
const maxNmse = 1e-11

const waysToFeed = {
  'in one piece': (length: number) => [length],
  'token by token': () => [1],
  'in uneven chunks': () => [1, 7, 2, 31, 5, 64, 3, 17],
}

assert.equal(caseNames.length, 9)
for (const name of caseNames) {
  for (const layout of ['original', 'hf'] as const) {
    test(`${name}/${layout}: logits, hidden states, experts and greedy continuation are the reference's`, async t => {
      const golden = await readGolden(name)
      const model = await openModel(name, layout)
      const tokens = [...golden.prompt, ...golden.continuation.slice(0, -1)]
      for (const [way, sizes] of Object.entries(waysToFeed)) {
        const { got, right } = paired(golden, await runChunked(model, tokens, sizes(tokens.length)))
        const off = difference(got, right)
        t.diagnostic(`${way}: max abs ${off.maxAbs.toExponential(1)}, NMSE ${off.nmse.toExponential(1)}`)
        assert.ok(off.maxAbs <= maxAbs && off.nmse <= maxNmse, `${way}: ${JSON.stringify(off)}`)
        const continuation = got.slice(golden.positions.length).map(argmax)
        assert.deepEqual(continuation, golden.continuation, way)
      }
      await checkStates(name, layout, golden)
    })
  }
}

/** What happens on the way to the last token of the prompt. */
async function checkStates(name: string, layout: 'original' | 'hf', golden: Golden): Promise<void> {
  const device = recording(new ReferenceDevice())
  const model = await openModel(name, layout, device)
  const cache = model.newCache(golden.prompt.length)
  await run(model, [{ cache, tokens: golden.prompt, start: 0, logits: 'last' }])
  const results = (op: string) => device.calls.filter(call => call.op === op).map(call => call.result)
  const lastRow = (tensor: unknown) => {
    const data = numbers(tensor)
    return data.subarray(data.length - (tensor as { shape: number[] }).shape[1])
  }
  const close = (what: string, got: Float32Array[], right: Float32Array[]) => {
    assert.equal(got.length, right.length, what)
    const off = difference(got, right)
    assert.ok(off.maxAbs <= maxAbs, `${what} is off by ${off.maxAbs}`)
  }
  const { tensors } = golden
  const sums = results('add').map(lastRow) // after attention and after the experts of each layer
  const routings = results('topK') as Routing[]
  const routerInputs = device.calls.filter(call => call.op === 'topK').map(call => call.args[0])
  close('embedded', [lastRow(results('embedding')[0])], rowsOf(tensors.embedded))
  close(
    'after attention',
    sums.filter((_, i) => i % 2 === 0),
    rowsOf(tensors.after_attention),
  )
  close(
    'after layer',
    sums.filter((_, i) => i % 2 === 1),
    rowsOf(tensors.after_layer),
  )
  close('router logits', routerInputs.map(lastRow), rowsOf(tensors.router_logits))
  close('final norm', [lastRow(results('rmsNorm').at(-1))], rowsOf(tensors.final_norm))
  assert.deepEqual(
    routings.map(routing => [...lastRow(routing.experts)]),
    golden.experts,
  )
  const weights = routings.map(routing => lastRow(routing.weights))
  close(
    'expert weights',
    weights,
    golden.expert_weights.map(row => Float32Array.from(row)),
  )
}

function argmax(row: Float32Array): number {
  return row.reduce((best, value, i) => (value > row[best] ? i : best), 0)
}
