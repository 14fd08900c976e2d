import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import fc from 'fast-check'
import { loadTokenizer } from '../tokenizer/load.ts'
import type { Message } from './message.ts'
import { HarmonyParser, type ParserEvent, parseCompletion } from './parser.ts'
import { CALL, CHANNEL, CHANNELS, CONSTRAIN, END, END_OF_TEXT, MESSAGE, RETURN, START } from './tokens.ts'

const tokenizer = await loadTokenizer()
const golden = new URL('../../test/golden/harmony/parse.json', import.meta.url)
const { cases } = JSON.parse(readFileSync(golden, 'utf8')) as { cases: { name: string; ids: number[] }[] }
const ids = (text: string) => tokenizer.encode(text, { allowedSpecial: 'all' })

/** Pushes all tokens; checks that the events tell each message once, in order, and its content piece by piece. */
function readChecked(tokens: readonly number[]): { messages: Message[]; numFinished: number } {
  const parser = new HarmonyParser(tokenizer)
  const told: Message[] = []
  let open: { channel?: string; text: string } | undefined
  let numFinished = 0
  const check = (event: ParserEvent) => {
    if (event.type === 'repair') {
      const { at, tokens: concerned } = event.repair
      return assert.deepEqual(concerned, tokens.slice(at, at + concerned.length))
    }
    assert.equal(event.index, told.length)
    if (event.type === 'header') {
      assert.equal(open, undefined)
      assert.equal(event.role, 'assistant')
      open = { channel: event.channel, text: '' }
    } else if (event.type === 'delta') {
      assert.ok(open !== undefined && event.channel === open.channel && event.text !== '')
      open.text += event.text
    } else {
      assert.equal(open?.text, event.message.content)
      assert.equal(open?.channel, event.message.channel)
      assert.ok(CHANNELS.includes(open?.channel as never))
      told.push(event.message)
      open = undefined
    }
  }
  for (const token of tokens) {
    parser.push(token).forEach(check)
    numFinished = parser.messages.length
  }
  parser.finish().forEach(check)
  assert.equal(open, undefined)
  assert.deepEqual(parser.messages, told)
  assert.equal(parser.state, 'between')
  return { messages: told, numFinished }
}

const control = fc.constantFrom(CALL, CHANNEL, CONSTRAIN, END, END_OF_TEXT, MESSAGE, RETURN, START)
const words = fc.constantFrom(
  'assistant',
  'user',
  'analysis',
  'final',
  'commentary',
  ' to=functions.f',
  'json',
  ' hi',
  '🙂',
)
const stream = fc
  .array(
    fc.oneof(
      { weight: 4, arbitrary: control.map(token => [token]) },
      { weight: 4, arbitrary: words.map(word => tokenizer.encode(word)) },
      { weight: 1, arbitrary: fc.integer({ min: -1, max: 201_100 }).map(token => [token]) },
    ),
    { maxLength: 40 },
  )
  .map(parts => parts.flat())

test('events tell every message once and its content piece by piece, whatever the tokens', () => {
  for (const { ids: tokens } of cases) readChecked(tokens)
  fc.assert(
    fc.property(stream, tokens => void readChecked(tokens)),
    { numRuns: 3000, seed: 11 },
  )
})

test('cut anywhere, the messages finished before the cut are those of the whole', () => {
  for (const { name, ids: tokens } of cases) {
    const whole = readChecked(tokens).messages
    const step = Math.max(1, Math.floor(tokens.length / 60))
    for (let cut = 0; cut < tokens.length; cut += step) {
      const { messages, numFinished } = readChecked(tokens.slice(0, cut))
      assert.deepEqual(messages.slice(0, numFinished), whole.slice(0, numFinished), `${name}, cut at ${cut}`)
      assert.ok(messages.length <= numFinished + 2, `${name}, cut at ${cut}`)
    }
  }
})

test('after an end and <|start|>assistant, what came before does not matter', () => {
  const begin = ids('<|start|>assistant')
  for (const { name, ids: tokens } of cases.slice(0, 150)) {
    const alone = parseCompletion(tokenizer, [...begin, ...tokens], { role: null }).messages
    for (const { ids: before } of cases.slice(-10)) {
      const closed = [...before, END]
      const { messages } = parseCompletion(tokenizer, [...closed, ...begin, ...tokens])
      const numBefore = parseCompletion(tokenizer, closed).messages.length
      assert.deepEqual(messages.slice(numBefore), alone, name)
    }
  }
})

test('characters split over tokens come whole', () => {
  const byteTokens = (text: string) => [...new TextEncoder().encode(text)].flatMap(byte => tokenOfByte[byte])
  const tokenOfByte = Array.from({ length: 256 }, () => -1)
  for (let id = 0; id < 256; id++) tokenOfByte[tokenizer.tokenBytes(id)![0]] = id
  const content = fc
    .string({ unit: 'binary', maxLength: 20 })
    .filter(text => text.isWellFormed() && !text.includes('\uFFFD'))
  const header = ids('<|channel|>final<|message|>')
  const property = fc.property(content, text => {
    const parser = new HarmonyParser(tokenizer)
    const tokens = [...header, ...byteTokens(text), RETURN]
    const deltas = tokens.flatMap(token => parser.push(token)).filter(event => event.type === 'delta')
    assert.equal(deltas.map(delta => delta.text).join(''), text)
    for (const { text } of deltas) assert.ok(text.isWellFormed() && !text.includes('\uFFFD'))
  })
  fc.assert(property, { numRuns: 500, seed: 12 })
})

test('a well-formed message carries its own tokens, which say the same again', () => {
  let numCarried = 0
  for (const { name, ids: tokens } of cases) {
    for (const message of parseCompletion(tokenizer, tokens).messages) {
      if (message.tokens === undefined) continue
      const again = parseCompletion(tokenizer, [...message.tokens, END]).messages
      assert.deepEqual(again, [message], name)
      assert.equal(message.tokens.filter(token => token === MESSAGE).length, 1, name)
      assert.ok(!message.tokens.some(token => [START, END, CALL, RETURN, END_OF_TEXT].includes(token)), name)
      numCarried++
    }
  }
  assert.ok(numCarried > 200, `${numCarried} messages with tokens`)
})

test('repaired messages carry no tokens', () => {
  const text = '<|channel|>thought<|message|>t<|end|><|start|>user<|channel|>final<|message|>x<|end|>plain<|return|>'
  const { messages } = parseCompletion(tokenizer, ids(text))
  assert.deepEqual(
    messages.map(message => message.tokens),
    [undefined, undefined, undefined],
  )
})

test('how a message ended is told', () => {
  const rows: [text: string, ended: string[]][] = [
    ['<|channel|>final<|message|>a<|end|>', ['end']],
    ['<|channel|>final<|message|>a<|return|>', ['return']],
    ['<|channel|>final<|message|>a<|endoftext|>', ['endoftext']],
    ['<|channel|>commentary to=functions.f<|message|>{}<|call|>', ['call']],
    ['<|channel|>commentary to=functions.f<|message|>{"a', ['cut']],
    ['<|channel|>analysis<|message|>a<|channel|>final<|message|>b<|return|>', ['next', 'return']],
  ]
  for (const [text, ended] of rows) {
    const parser = new HarmonyParser(tokenizer)
    const events = [...ids(text).flatMap(token => parser.push(token)), ...parser.finish()]
    assert.deepEqual(
      events.flatMap(event => (event.type === 'message' ? [event.ended] : [])),
      ended,
      text,
    )
  }
})

test('the open message can be looked at', () => {
  const parser = new HarmonyParser(tokenizer)
  assert.deepEqual([parser.state, parser.open.role], ['header', 'assistant'])
  for (const token of ids('<|channel|>commentary to=python code<|message|>1+1')) parser.push(token)
  const expected = {
    role: 'assistant',
    channel: 'commentary',
    recipient: 'python',
    contentType: 'code',
    content: '1+1',
    delta: '1',
  }
  assert.deepEqual([parser.state, parser.open], ['content', expected])
})
