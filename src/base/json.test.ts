import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { JsonReader, type JsonValue, maxJsonDepth, parseJson, quoted } from './json.ts'

/** As JSON.parse gives it: Maps become objects, and bigints are rounded. */
function plain(value: JsonValue): unknown {
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, inner]) => [key, plain(inner)]))
  if (typeof value === 'bigint') return Number(value)
  return Array.isArray(value) ? value.map(plain) : value
}

test('what JSON.stringify writes is read as JSON.parse reads it', () => {
  fc.assert(
    fc.property(fc.jsonValue(), fc.integer({ min: 0, max: 4 }), (value, indent) => {
      const text = JSON.stringify(value, null, indent)
      assert.deepEqual(plain(parseJson(text)), JSON.parse(text))
    }),
    { numRuns: 2000 },
  )
})

test('what JSON.parse refuses is refused, in damaged texts too', () => {
  const damaged = fc.tuple(fc.json(), fc.nat(), fc.string({ maxLength: 2 })).map(([text, at, inserted]) => {
    const place = at % (text.length + 1)
    return text.slice(0, place) + inserted + text.slice(place + 1)
  })
  const accepts = (parse: (text: string) => unknown, text: string): boolean => {
    try {
      parse(text)
      return true
    } catch (error) {
      assert.ok(error instanceof SyntaxError)
      return false
    }
  }
  fc.assert(
    fc.property(damaged, text => {
      if (!accepts(JSON.parse, text)) assert.ok(!accepts(parseJson, text), text)
    }),
    { numRuns: 5000 },
  )
})

test('numbers keep their value: integers beyond 2^53 become bigints', () => {
  const cases: [text: string, value: JsonValue][] = [
    ['0', 0],
    ['-0', -0],
    ['9007199254740991', 9007199254740991],
    ['9007199254740992', 9007199254740992n],
    ['9007199254740993', 9007199254740993n],
    ['-18446744073709551616', -18446744073709551616n],
    ['1.5e3', 1500],
    ['1e-400', 0],
  ]
  for (const [text, value] of cases) assert.deepEqual(parseJson(text), value, text)
})

test('what JSON.parse lets pass and loses is refused, with the place', () => {
  const cases: [text: string, message: RegExp][] = [
    ['{"a":1,"b":{"a":1,"\\u0061":2}}', /the key "a" is repeated \(at character 26\)/],
    ['["\\ud800"]', /half of a surrogate pair/],
    ['["\\udc00\\ud800"]', /half of a surrogate pair/],
    ['1e400', /a number is out of range \(at character 0\)/],
    [`${'9'.repeat(400)}`, /out of range/],
    [`${'['.repeat(maxJsonDepth + 1)}`, /more than 127 objects and arrays inside each other/],
    [`${'{"a":'.repeat(100_000)}`, /more than 127/],
    ['"a', /a string does not end \(at character 2\)/],
    ['"\t"', /a string holds a control character/],
    ['{"a" 1}', /expected ':' after a key/],
    ['[1 2]', /expected ',' or '\]'/],
    ['1 2', /the text goes on after its value/],
    ['', /expected a value/],
  ]
  for (const [text, message] of cases)
    assert.throws(() => parseJson(text), { name: 'SyntaxError', message }, text.slice(0, 40))
})

test('an object may nest to the limit, and __proto__ is a key like any other', () => {
  parseJson('['.repeat(maxJsonDepth) + ']'.repeat(maxJsonDepth))
  assert.deepEqual(parseJson('{"__proto__":{"polluted":1}}'), new Map([['__proto__', new Map([['polluted', 1]])]]))
  assert.equal(({} as Record<string, unknown>).polluted, undefined)
})

test('unsigned reads integers up to 2^64 − 1 and nothing else', () => {
  const read = (text: string) => new JsonReader(text).unsigned()
  assert.equal(read(' 18446744073709551615'), 18446744073709551615n)
  for (const text of ['18446744073709551616', '-1', '-0', '1.0', '1e0', '"1"', '']) {
    assert.throws(() => read(text), /expected an unsigned integer below 2\^64/, text)
  }
})

test('a text of a million keys or of one huge number is read in linear time', () => {
  const keys = `{${Array.from({ length: 200_000 }, (_, i) => `"${i}":${i}`).join(',')}}`
  assert.equal((parseJson(keys) as ReadonlyMap<string, JsonValue>).size, 200_000)
  assert.throws(() => parseJson('9'.repeat(5_000_000)), /out of range/)
})

test('a name in a message is short and shows what is odd', () => {
  assert.equal(quoted('a\n\ud800"'), '"a\\n\\ud800\\""')
  assert.ok(quoted('x'.repeat(1000)).length < 100)
})
