import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { RequestError } from '../base/errors.ts'
import { MAX_JSON_DEPTH, readJson, writeJson, writeSerdeJson } from './json.ts'

describe('JSON text keeps what JSON.parse loses', () => {
  const cases: [string, string, string][] = [
    ['the spelling of numbers', '[1.0, 1E+2, -0, 18446744073709551616]', '[1.0,1E+2,-0,18446744073709551616]'],
    ['the order of keys that look like indexes', '{"b":1,"1":2,"0":3}', '{"b":1,"1":2,"0":3}'],
    ['the place of a repeated key, with its last value', '{"a":1,"b":2,"a":3}', '{"a":3,"b":2}'],
    ['__proto__ as a key', '{"__proto__":{"x":1}}', '{"__proto__":{"x":1}}'],
    ['escapes in strings', '"\\u0041\\/\\ud83d\\ude42\\n"', '"A/🙂\\n"'],
    ['half a surrogate pair', '"\\ud83d"', '"\\ud83d"'],
    ['white space around everything', ' [ 1 , { "a" : null } ]\n', '[1,{"a":null}]'],
  ]
  for (const [title, text, expected] of cases) {
    test(title, () => assert.equal(writeJson(readJson({ json: text })), expected))
  }
})

test('numbers print as serde_json prints them after reading', () => {
  const cases = { '1.50': '1.5', '1e15': '1000000000000000.0', '1e16': '1e16', '1e-5': '0.00001', '0.000001': '1e-6' }
  for (const [source, expected] of Object.entries(cases)) {
    assert.equal(writeSerdeJson(readJson({ json: source })), expected)
  }
})

test('every value that JSON can say is read as JSON.parse reads it', () => {
  fc.assert(
    fc.property(fc.jsonValue(), value => {
      const text = JSON.stringify(value)
      assert.deepEqual(JSON.parse(writeJson(readJson({ json: text }))), JSON.parse(text))
      if (typeof value === 'object' && value !== null) assert.equal(writeJson(readJson(value)), JSON.stringify(value))
    }),
  )
})

test('a text is refused exactly where JSON.parse refuses it', () => {
  const parts = fc.constantFrom(
    '{',
    '}',
    '[',
    ']',
    ',',
    ':',
    '"a"',
    '"',
    '\\',
    '1',
    '-',
    '0',
    '.',
    'e',
    'true',
    'nul',
    ' ',
    '\u0001',
  )
  fc.assert(
    fc.property(fc.array(parts, { maxLength: 8 }), pieces => {
      const json = pieces.join('')
      fc.pre(!/e\d{3}/.test(json)) // JSON.parse makes it Infinity, which no prompt can show
      let isJson = true
      try {
        JSON.parse(json)
      } catch {
        isJson = false
      }
      if (isJson) readJson({ json })
      else assert.throws(() => readJson({ json }), RequestError)
    }),
    { numRuns: 3000 },
  )
})

describe('what cannot be shown is a RequestError that names its parameter', () => {
  const loop: Record<string, unknown> = {}
  loop.self = loop
  let deep: unknown = 1
  for (let i = 0; i < 100_000; i++) deep = [deep]
  const cases: [string, unknown, RegExp][] = [
    ['deep text', { json: '['.repeat(5_000_000) }, /deeper than 128/],
    ['a deep value', deep, /deep/],
    ['a value that holds itself', loop, /circular/],
    ['a bigint', { default: 1n }, /BigInt/],
    ['a function', () => {}, /cannot be a function/],
    ['a number out of range', { json: '1e999' }, /out of range/],
    ['a trailing comma', { json: '{"a":1,}' }, /no key at character 7/],
    ['an unknown escape', { json: '"\\x"' }, /bad escape/],
  ]
  for (const [title, source, message] of cases) {
    test(title, () => {
      assert.throws(
        () => readJson(source as object, 'tools.f'),
        (error: unknown) => {
          return error instanceof RequestError && error.param === 'tools.f' && message.test(error.message)
        },
      )
    })
  }
  test('the greatest depth is allowed', () => {
    const text = '['.repeat(MAX_JSON_DEPTH) + ']'.repeat(MAX_JSON_DEPTH)
    assert.equal(writeJson(readJson({ json: text })), text)
  })
})

test('an object with more keys than json is a schema, not JSON text', () => {
  assert.equal(writeJson(readJson({ json: '1', type: 'object' })), '{"json":"1","type":"object"}')
})
