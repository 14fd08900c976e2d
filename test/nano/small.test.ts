import assert from 'node:assert/strict'
import { test } from 'node:test'
import { devices } from '../../src/kernels/testing.ts'
import { documents as wholeDocuments } from './documents.ts'
import { documents, numUnused, openSmallNano, vocabulary } from './small.ts'
import { openNano } from './teacher-forced.ts'

for (const { name, open } of devices) {
  test(`nano of the small vocabulary has the whole one's logits, bit for bit, on ${name}`, async () => {
    const logits: Float32Array[] = []
    for (const [model, { ids }] of [
      [await openNano(open()), wholeDocuments[0]],
      [await openSmallNano(open()), documents[0]],
    ] as const) {
      const cache = model.newCache(20)
      logits.push((await model.forward([{ cache, tokens: ids.slice(0, 20), start: 0, logits: 'last' }]))!)
      model.close()
    }
    const [whole, small] = logits
    const places = new Map(vocabulary.map((id, place) => [id, place]))
    const right = Float32Array.from(whole, (_, id) => small[places.get(id) ?? small.length - 1])
    assert.deepEqual(whole, right)
    assert.equal(numUnused, whole.length - places.size + 1)
    assert.ok(places.size < 25_000)
  })
}
