import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { DeviceError } from '../base/errors.ts'
import { likeliest, likeliestFew, likeliestFrom } from './likeliest.ts'

/** Few different values make ties. */
const logits = fc
  .array(fc.oneof(fc.constantFrom(-Infinity, -1, -0, 0, 3), fc.float({ noNaN: true, noDefaultInfinity: true })), {
    minLength: 1,
    maxLength: 200,
  })
  .map(values => Float32Array.from(values))

const sorted = (values: Float32Array) => [...values.keys()].sort((a, b) => compare(values[b], values[a]) || a - b)
const compare = (a: number, b: number) => (a < b ? -1 : a > b ? 1 : 0)

test('likeliest is the first of a sort', () => {
  fc.assert(fc.property(logits, values => likeliest(values) === sorted(values)[0]))
})

test('likeliestFew are the first of a sort', () => {
  fc.assert(
    fc.property(logits, fc.integer({ min: 0, max: 220 }), (values, count) => {
      assert.deepEqual(likeliestFew(values, count), sorted(values).slice(0, count))
    }),
  )
})

test('likeliestFrom are those of a sort that reach the bound', () => {
  fc.assert(
    fc.property(logits, fc.oneof(fc.constantFrom(-Infinity, 0, 3), fc.float({ noNaN: true })), (values, least) => {
      assert.deepEqual(
        likeliestFrom(values, least),
        sorted(values).filter(id => values[id] >= least),
      )
    }),
  )
})

for (const wrong of [Number.NaN, Infinity]) {
  test(`a logit of ${wrong} is a DeviceError that names the token`, () => {
    for (const at of [0, 7, 19]) {
      const values = new Float32Array(20).fill(-1)
      values[at] = wrong
      assert.throws(() => likeliest(values), { name: 'DeviceError', message: new RegExp(`token ${at} is ${wrong}`) })
      assert.throws(() => likeliest(values), DeviceError)
    }
  })
}
