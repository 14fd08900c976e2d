import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { RequestError } from '../base/errors.ts'
import { type Message, textOf } from '../harmony/message.ts'
import { fitToContext } from './history.ts'

// One "token" a character keeps the arithmetic in sight.
const render = (messages: readonly Message[]) =>
  [...messages.map(message => message.recipient ?? textOf(message)).join('')].map(character => character.charCodeAt(0))
const prompt = (messages: readonly Message[]) => String.fromCharCode(...render(messages))

const system: Message = { role: 'system', content: 'S' }
const developer: Message = { role: 'developer', content: 'D' }
const user = (content: string): Message => ({ role: 'user', content })
const final = (content: string): Message => ({ role: 'assistant', channel: 'final', content })
const call = (recipient: string): Message => ({ role: 'assistant', channel: 'commentary', recipient, content: '{}' })
const result = (name: string): Message => ({ role: 'tool', name, recipient: name.toUpperCase(), content: '' })

const threeTurns = [system, developer, user('aa'), final('AA'), user('bb'), final('BB'), user('cc')]
const cases: {
  title: string
  messages: Message[]
  limit: number
  reserve?: number
  kept: string
  dropped: number
}[] = [
  { title: 'keeps all that fits', messages: threeTurns, limit: 13, kept: 'SDaaAAbbBBcc', dropped: 0 },
  { title: 'drops the oldest turn whole', messages: threeTurns, limit: 12, kept: 'SDbbBBcc', dropped: 1 },
  { title: 'drops no more turns than it must', messages: threeTurns, limit: 9, kept: 'SDbbBBcc', dropped: 1 },
  { title: 'drops as many as it must', messages: threeTurns, limit: 8, kept: 'SDcc', dropped: 2 },
  {
    title: 'leaves the reserve to the answer',
    messages: threeTurns,
    limit: 13,
    reserve: 2,
    kept: 'SDbbBBcc',
    dropped: 1,
  },
  {
    title: 'spends the reserve on the last turn',
    messages: threeTurns,
    limit: 5,
    reserve: 4,
    kept: 'SDcc',
    dropped: 2,
  },
  {
    title: 'keeps a developer message that came in the middle',
    messages: [user('aa'), final('AA'), developer, user('bb')],
    limit: 5,
    kept: 'Dbb',
    dropped: 1,
  },
  {
    title: 'a call leaves together with its result, its question and its answer',
    messages: [user('aa'), call('f'), result('f'), final('AA'), user('bb')],
    limit: 7,
    kept: 'bb',
    dropped: 1,
  },
  {
    title: 'a result that came after the next question holds both turns together',
    messages: [user('aa'), call('f'), user('bb'), result('f'), final('BB'), user('cc')],
    limit: 8,
    kept: 'cc',
    dropped: 1,
  },
  {
    title: 'a result belongs to the call of its name, not to an older one',
    messages: [user('aa'), call('f'), user('bb'), call('g'), result('g'), final('BB'), user('cc')],
    limit: 9,
    kept: 'bbgGBBcc',
    dropped: 1,
  },
  {
    title: 'a call that nobody answered does not hold later turns',
    messages: [user('aa'), call('f'), user('bb'), final('BB'), user('cc')],
    limit: 8,
    kept: 'bbBBcc',
    dropped: 1,
  },
  {
    title: 'two questions in a row are one turn',
    messages: [user('aa'), user('bb'), final('BB'), user('cc')],
    limit: 6,
    kept: 'cc',
    dropped: 1,
  },
  {
    title: 'a greeting before the first question leaves first',
    messages: [final('hello'), user('aa'), final('AA'), user('bb')],
    limit: 8,
    kept: 'aaAAbb',
    dropped: 1,
  },
]

describe('fitToContext', () => {
  for (const { title, messages, limit, reserve, kept, dropped } of cases) {
    it(title, () => {
      const fitted = fitToContext(messages, { limit, reserve }, render)
      assert.equal(prompt(fitted.messages), kept)
      assert.deepEqual(fitted.tokens, render(fitted.messages))
      assert.equal(fitted.droppedTurns, dropped)
    })
  }

  it('refuses a last turn that does not fit, with both numbers', () => {
    assert.throws(
      () => fitToContext(threeTurns, { limit: 4 }, render),
      (error: unknown) => error instanceof RequestError && /has 4 tokens and the context holds 4/.test(error.message),
    )
  })

  it('keeps the open turn, its call and its result', () => {
    const messages = [user('aa'), final('AA'), user('bb'), call('f'), result('f')]
    assert.equal(prompt(fitToContext(messages, { limit: 5 }, render).messages), 'bbfF')
    assert.throws(() => fitToContext(messages, { limit: 4 }, render), RequestError)
  })

  it('drops as few turns as dropping one by one would, and never parts a call from its result', () => {
    const turn = fc
      .tuple(fc.nat(8), fc.boolean())
      .map(([length, calls]) => [
        user('u'.repeat(length + 1)),
        ...(calls ? [call('f'), result('f')] : []),
        final('A'.repeat(length)),
      ])
    fc.assert(
      fc.property(
        fc.array(turn, { minLength: 1, maxLength: 20 }),
        fc.integer({ min: 10, max: 150 }),
        (turns, limit) => {
          const fewest = turns.findIndex((_, i) => render(turns.slice(i).flat()).length < limit)
          if (fewest < 0) return
          const fitted = fitToContext(turns.flat(), { limit }, render)
          assert.equal(fitted.droppedTurns, fewest)
          assert.deepEqual(fitted.messages, turns.slice(fewest).flat())
        },
      ),
    )
  })
})
