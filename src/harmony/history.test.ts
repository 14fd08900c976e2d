import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { type History, historyOf } from './history.ts'
import type { Message } from './message.ts'
import { analysisMessage, finalMessage, functionCallMessage, toolResultMessage, userMessage } from './messages.ts'

/** A conversation in letters, so that a case fits a line. */
const letters: Record<string, Message> = {
  u: userMessage('question'),
  a: analysisMessage('thought'),
  p: { role: 'assistant', channel: 'commentary', content: 'preamble' },
  f: finalMessage('answer'),
  c: functionCallMessage('f', '{}'),
  r: toolResultMessage(functionCallMessage('f', '{}'), 'result'),
  b: { role: 'assistant', channel: 'analysis', recipient: 'browser.search', content: '{}' },
  s: { role: 'tool', name: 'browser.search', recipient: 'assistant', channel: 'analysis', content: 'found' },
  A: { role: 'assistant', channel: 'analysis', recipient: 'all', content: 'thought for all' },
  x: { role: 'user', channel: 'analysis', content: "the user's analysis" },
  F: { role: 'user', channel: 'final', content: "the user's final" },
}

function left(conversation: string, history: History): string {
  const messages = [...conversation].map(letter => letters[letter])
  const kept = historyOf(messages, history)
  const letterOf = new Map(Object.entries(letters).map(([letter, message]) => [message, letter]))
  return kept.map(message => letterOf.get(message)).join('')
}

describe('what is left of a conversation', () => {
  const cases: { why: string; given: string; drop: string; reference: string }[] = [
    { why: 'thoughts of an answered turn go', given: 'uaf', drop: 'uf', reference: 'uf' },
    { why: 'thoughts of an open turn stay', given: 'uacr', drop: 'uacr', reference: 'uacr' },
    { why: 'thoughts of the second of two answered turns go too', given: 'uafuaf', drop: 'ufuf', reference: 'ufuaf' },
    { why: 'old thoughts go while a new turn is open', given: 'uafuacr', drop: 'ufuacr', reference: 'uafuacr' },
    { why: 'a thought after the answer stays', given: 'uafa', drop: 'ufa', reference: 'uafa' },
    { why: 'calls on analysis and their results stay together', given: 'uabsaf', drop: 'ubsf', reference: 'uf' },
    { why: 'function calls and preambles stay', given: 'uapcraf', drop: 'upcrf', reference: 'upcrf' },
    { why: 'to all is no call', given: 'uAf', drop: 'uf', reference: 'uf' },
    { why: 'only the assistant thinks and answers', given: 'xaFaf', drop: 'xFf', reference: 'Faf' },
    { why: 'a final of the user answers nothing', given: 'uaF', drop: 'uaF', reference: 'uaF' },
    { why: 'nothing to drop', given: 'uu', drop: 'uu', reference: 'uu' },
    { why: 'nothing at all', given: '', drop: '', reference: '' },
  ]
  for (const { why, given, drop, reference } of cases) {
    test(`${why}: ${given}`, () => {
      assert.equal(left(given, 'drop'), drop)
      assert.equal(left(given, 'reference'), reference)
      assert.equal(left(given, 'keep'), given)
    })
  }
})
