import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { HarmonyError } from '../base/errors.ts'
import { checkHeaderPart, checkToolName, MAX_NAME_LENGTH, sanitizeToolNames, toolNameProblem } from './names.ts'
import { ROLES } from './tokens.ts'

describe('a tool may be called', () => {
  for (const name of [
    'f',
    'get_weather',
    'functions.get_weather',
    'a/b',
    'a-b',
    '2nd',
    '_x',
    '路线',
    'größe',
    'systems',
    'tools.user',
  ]) {
    test(name, () => checkToolName(name))
  }
})

describe('a tool may not be called', () => {
  const cases: [string, string][] = [
    ...ROLES.map((role): [string, string] => [role, 'is a role']),
    ['System', 'is a role'],
    ['ｕｓｅｒ', 'is a role'],
    ['all', 'means everyone'],
    ['', 'is empty'],
    ['two words', 'letters'],
    ['nbsp\u00a0', 'letters'],
    ['nel\u0085', 'letters'],
    ['<|start|>', 'letters'],
    ['a|b', 'letters'],
    ['a=b', 'letters'],
    ['a:b', 'letters'],
    ['a//b', 'letters'],
    ['.a', 'letters'],
    ['f} // namespace', 'letters'],
    ['sys\u00adtem', 'letters'],
    ['\u3164', 'letters'],
    ['half\ud800', 'letters'],
    ['x'.repeat(MAX_NAME_LENGTH + 1), 'characters long'],
  ]
  for (const [name, reason] of cases) {
    test(JSON.stringify(name.slice(0, 40)), () => {
      assert.throws(() => checkToolName(name), HarmonyError)
      assert.ok(toolNameProblem(name)?.includes(reason), toolNameProblem(name))
    })
  }
})

test('the error says which name, its odd characters visible, and the cure', () => {
  assert.throws(() => checkToolName('a\u200b\n', 'a namespace'), {
    message:
      'the name of a namespace, "a\\u200b\\n", may hold letters, digits and _ - . / only, and begins with a letter, a digit or _; rename it (sanitizeToolNames does)',
  })
  assert.throws(() => checkHeaderPart('x to=y', 'a recipient'), {
    message: 'a recipient is "x to=y" and holds " ", which a header cannot carry; use letters, digits and _ - . /',
  })
})

describe('a part of a header', () => {
  for (const part of ['', 'assistant', 'functions.f', 'json', 'Mia', 'финал', 'a+b', '🙂']) {
    test(`may be ${JSON.stringify(part)}`, () => checkHeaderPart(part, 'a name'))
  }
  for (const part of ['a b', 'to=x', 'x:y', '<|end|>', 'a|b', 'a\u2028b', 'a\u0000', '\u202e', '\ud800']) {
    test(`may not be ${JSON.stringify(part)}`, () => assert.throws(() => checkHeaderPart(part, 'a name'), HarmonyError))
  }
})

test('names are made sound, unlike each other, and found again', () => {
  const given = [
    'get weather',
    'get_weather',
    'get\tweather',
    'user',
    'User',
    '',
    '🙂',
    '天气 查询',
    '.hidden',
    'a//b',
    'get weather',
  ]
  const { toModel, fromModel } = sanitizeToolNames(given)
  assert.deepEqual(Object.fromEntries(toModel), {
    get_weather: 'get_weather',
    'a//b': 'a__b',
    'get weather': 'get_weather_2',
    'get\tweather': 'get_weather_3',
    user: 'tool_user',
    User: 'tool_User',
    '': 'tool_',
    '🙂': '_',
    '天气 查询': '天气_查询',
    '.hidden': '_.hidden',
  })
  for (const name of new Set(given)) {
    const shown = toModel.get(name)!
    assert.equal(fromModel.get(shown), name)
  }
})
