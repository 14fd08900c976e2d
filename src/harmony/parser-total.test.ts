import assert from 'node:assert/strict'
import { test } from 'node:test'
import { loadTokenizer } from '../tokenizer/load.ts'
import type { Message } from './message.ts'
import { type ParserOptions, parseCompletion } from './parser.ts'
import { REPAIRS, type RepairKind } from './repair.ts'
import { MESSAGE, RETURN } from './tokens.ts'

const tokenizer = await loadTokenizer()

/** Text with control tokens in it, to ids. */
const ids = (text: string) => tokenizer.encode(text, { allowedSpecial: 'all' })

/** A message in one line: `channel to=recipient type: content`. */
function shown({ role, channel, recipient, contentType, content }: Message): string {
  assert.equal(role, 'assistant')
  return `${[channel, recipient && `to=${recipient}`, contentType].filter(part => part !== undefined).join(' ')}: ${content}`
}

function readTotal(text: string | number[], options: ParserOptions = {}) {
  const { messages, repairs } = parseCompletion(tokenizer, typeof text === 'string' ? ids(text) : text, options)
  return { messages: messages.map(shown), repairs: repairs.map(repair => repair.kind) }
}

const FINAL = '<|channel|>final<|message|>'
const ANALYSIS = '<|channel|>analysis<|message|>'
const CALL_F = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>'
const AGAIN = '<|end|><|start|>assistant'
const recipients = ['functions.f', 'functions.get_weather', 'python', 'browser.search']

/** What is written (control tokens in text, or ids), the messages, the repairs in order. */
type Row = [what: string, written: string | number[], messages: string[], repairs: RepairKind[]]

const wellFormed: Row[] = [
  ['an answer', `${FINAL}Hi.<|return|>`, ['final: Hi.'], []],
  ['analysis, then an answer', `${ANALYSIS}Easy.${AGAIN}${FINAL}42<|return|>`, ['analysis: Easy.', 'final: 42'], []],
  ['a call, channel first', `${CALL_F}{}<|call|>`, ['commentary to=functions.f <|constrain|>json: {}'], []],
  [
    'a call, recipient first',
    ' to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>',
    ['commentary to=functions.f <|constrain|>json: {}'],
    [],
  ],
  [
    'a call of a built-in tool on analysis',
    '<|channel|>analysis to=python code<|message|>print(1)<|call|>',
    ['analysis to=python code: print(1)'],
    [],
  ],
  [
    'a type that touches the name',
    '<|channel|>commentary to=functions.f<|constrain|>json<|message|>{}<|call|>',
    ['commentary to=functions.f <|constrain|>json: {}'],
    [],
  ],
  [
    'a typed answer, where strict mode takes the type for a recipient',
    '<|channel|>final <|constrain|>json<|message|>{}<|return|>',
    ['final <|constrain|>json: {}'],
    [],
  ],
  [
    'two calls',
    `${CALL_F}{"a":1}<|call|><|start|>assistant${CALL_F}{"a":2}<|call|>`,
    ['commentary to=functions.f <|constrain|>json: {"a":1}', 'commentary to=functions.f <|constrain|>json: {"a":2}'],
    [],
  ],
  ['an answer that ends at <|endoftext|>', `${FINAL}Hi.<|endoftext|>`, ['final: Hi.'], []],
  ['no token at all', '', [], []],
]

/** What users of other runtimes hit; the trackers' numbers are those of the reports. */
const reported: Row[] = [
  [
    'leftover header words (harmony#38, vllm#23567)',
    '<|channel|>commentary please call to=functions.f json<|message|>{}<|call|>',
    ['commentary to=functions.f json: {}'],
    ['leftover'],
  ],
  [
    'a missing <|start|> (vllm#22519, harmony#60)',
    `${ANALYSIS}t<|end|>assistant${FINAL}4<|return|>`,
    ['analysis: t', 'final: 4'],
    ['missing-start'],
  ],
  [
    'a missing <|start|> and role',
    `${ANALYSIS}t<|end|>${FINAL}4<|return|>`,
    ['analysis: t', 'final: 4'],
    ['missing-start'],
  ],
  [
    'a control token inside a tool’s name (vllm#32587, harmony#114)',
    '<|channel|>commentary to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>',
    ['commentary to=functions.f <|constrain|>json: {}'],
    ['repeated-channel'],
  ],
  [
    'a name cut by another control token',
    '<|channel|>commentary to=functions.f<|reserved_200013|>x <|constrain|>json<|message|>{}<|call|>',
    ['commentary to=functions.f <|constrain|>json: {}'],
    ['stray-token'],
  ],
  [
    'a refusal without header (harmony#80, llama.cpp#25321)',
    'I cannot help with that.<|return|>',
    ['commentary: I cannot help with that.'],
    ['no-header'],
  ],
  [
    'final without <|message|> (vllm#45213)',
    `${ANALYSIS}t${AGAIN}<|channel|>final The answer  is\n4.<|return|>`,
    ['analysis: t', 'final: The answer  is\n4.'],
    ['missing-message'],
  ],
  [
    'a broken header, then a good one (llama.cpp#27720)',
    `${ANALYSIS}t${AGAIN}<|channel|>x y <|constrain|>!!${AGAIN}${FINAL}4<|return|>`,
    ['analysis: t', 'analysis: x y !!', 'final: 4'],
    ['missing-message', 'unknown-channel', 'stray-token'],
  ],
  [
    'argument text that is no JSON (ollama#17638)',
    `${CALL_F}{"a": 'b',}<|call|>`,
    [`commentary to=functions.f <|constrain|>json: {"a": 'b',}`],
    [],
  ],
  [
    'a call cut off in its arguments (lmstudio#942)',
    `${CALL_F}{"a":`,
    ['commentary to=functions.f <|constrain|>json: {"a":'],
    [],
  ],
  [
    'a call cut off in its header',
    '<|channel|>commentary to=functions.f <|constrain|>json',
    ['commentary to=functions.f <|constrain|>json: '],
    ['missing-message'],
  ],
  [
    'a call without functions. (ollama#11991)',
    '<|channel|>commentary to=get_weather <|constrain|>json<|message|>{}<|call|>',
    ['commentary to=functions.get_weather <|constrain|>json: {}'],
    ['bare-name'],
  ],
  [
    'a function call on analysis (omlx#2216, vllm#35884)',
    '<|channel|>analysis to=functions.f <|constrain|>json<|message|>{}<|call|>',
    ['commentary to=functions.f <|constrain|>json: {}'],
    ['call-channel'],
  ],
  [
    'a call of a tool that nobody declared (codex#11940)',
    '<|channel|>commentary to=container.exec <|constrain|>json<|message|>{}<|call|>',
    ['commentary to=container.exec <|constrain|>json: {}'],
    [],
  ],
]

const repaired: Row[] = [
  // Messages that run into each other.
  [
    'no <|end|> before <|start|>',
    `${ANALYSIS}t<|start|>assistant${FINAL}4<|return|>`,
    ['analysis: t', 'final: 4'],
    ['missing-end'],
  ],
  ['no <|end|> before <|channel|>', `${ANALYSIS}t${FINAL}4<|return|>`, ['analysis: t', 'final: 4'], ['missing-end']],
  [
    'a second <|message|>: a header is lost',
    `${FINAL}4<|message|>hm<|return|>`,
    ['final: 4', 'analysis: hm'],
    ['missing-end'],
  ],
  ['<|message|> twice', `<|channel|>final<|message|><|message|>4<|return|>`, ['final: 4'], ['stray-token']],
  [
    '<|start|> twice',
    `${ANALYSIS}t<|end|><|start|><|start|>assistant${FINAL}4<|return|>`,
    ['analysis: t', 'final: 4'],
    ['empty-header'],
  ],
  ['the prompt’s <|start|>assistant again', `<|start|>assistant${FINAL}4<|return|>`, ['final: 4'], ['stray-token']],
  ['the prompt’s assistant again', `assistant${FINAL}4<|return|>`, ['final: 4'], []],
  [
    'white space between messages',
    `${ANALYSIS}t<|end|>\n<|start|>assistant${FINAL}4<|return|>`,
    ['analysis: t', 'final: 4'],
    ['missing-start', 'empty-header'],
  ],
  [
    'ends without messages',
    `<|end|>${FINAL}4<|return|><|return|><|endoftext|>`,
    ['final: 4'],
    ['stray-token', 'missing-start', 'stray-token', 'stray-token'],
  ],
  [
    'text after the end of the turn',
    `${FINAL}4<|return|>more`,
    ['final: 4', 'analysis: more'],
    ['missing-start', 'no-header'],
  ],

  // A missing <|message|>.
  [
    'analysis without <|message|>',
    `<|channel|>analysis Think.${AGAIN}${FINAL}4<|return|>`,
    ['analysis: Think.', 'final: 4'],
    ['missing-message'],
  ],
  [
    'analysis that touches its text',
    [...ids('<|channel|>analysis'), ...ids('I think.<|end|>')],
    ['analysis: I think.'],
    ['missing-message'],
  ],
  [
    'analysis without <|message|> and <|end|>',
    `<|channel|>analysis Think.${FINAL}4<|return|>`,
    ['analysis: Think.', 'final: 4'],
    ['missing-message'],
  ],
  [
    'a call without <|message|>',
    '<|channel|>commentary to=functions.f <|constrain|>json{"a":1}<|call|>',
    ['commentary to=functions.f <|constrain|>json: {"a":1}'],
    ['missing-message'],
  ],
  [
    'a call without channel and <|message|>',
    ' to=functions.f {"a":1}<|call|>',
    ['commentary to=functions.f: {"a":1}'],
    ['missing-message'],
  ],
  ['nothing but the channel of an answer', '<|channel|>final<|return|>', ['final: '], ['missing-message']],
  ['a header cut off', `${ANALYSIS}t${AGAIN}<|channel|>final`, ['analysis: t'], ['empty-header']],
  ['a header cut off before its channel', `${ANALYSIS}t<|end|><|start|>assistant`, ['analysis: t'], ['empty-header']],

  // No channel: never final.
  [
    'text without header that a message follows',
    `We think.${AGAIN}${FINAL}4<|return|>`,
    ['analysis: We think.', 'final: 4'],
    ['no-header'],
  ],
  [
    'text without header that begins with a tool’s name',
    'python is a snake.<|return|>',
    ['commentary: python is a snake.'],
    ['no-header'],
  ],
  [
    'an answer without <|message|> that begins with a tool’s name',
    '<|channel|>final python is a snake.<|return|>',
    ['final: python is a snake.'],
    ['missing-message'],
  ],
  [
    'a tool’s name without to= before the channel',
    'functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>',
    ['commentary to=functions.f <|constrain|>json: {}'],
    ['recipient-spelling'],
  ],
  ['text without header, cut off', 'We think', ['analysis: We think'], ['no-header']],
  [
    'text without header before <|channel|>',
    `We think.${FINAL}4<|return|>`,
    ['analysis: We think.', 'final: 4'],
    ['no-header'],
  ],
  [
    'analysis without its control tokens',
    [...ids('analysis'), ...ids('We think.<|return|>')],
    ['analysis: We think.'],
    ['missing-message', 'missing-marker'],
  ],
  ['<|message|> alone, ended by <|return|>', '<|message|>No.<|return|>', ['commentary: No.'], ['missing-channel']],
  ['<|message|> alone, ended otherwise', '<|message|>No.<|end|>', ['analysis: No.'], ['missing-channel']],
  ['a channel without <|channel|>', 'final<|message|>4<|return|>', ['final: 4'], ['missing-marker']],
  [
    'final without <|channel|>, and another word (board row 11)',
    'final<|startoftext|>analysis<|message|>t<|end|>',
    ['analysis: t'],
    ['missing-marker', 'stray-token'],
  ],
  [
    'final without <|channel|>, and what may have been a type',
    'final<|constrain|>analysis<|message|>t<|end|>',
    ['analysis <|constrain|>analysis: t'],
    ['missing-marker'],
  ],
  [
    'a recipient without channel',
    ' to=functions.f<|message|>{}<|call|>',
    ['commentary to=functions.f: {}'],
    ['missing-channel'],
  ],

  // Channels.
  ['an unknown channel', '<|channel|>thought<|message|>t<|end|>', ['analysis: t'], ['unknown-channel']],
  [
    'a channel with more to its name',
    '<|channel|>commentary/final<|message|>t<|end|>',
    ['analysis: t'],
    ['unknown-channel'],
  ],
  [
    'a word that begins like a channel',
    '<|channel|>finally done<|end|>',
    ['analysis: finally done'],
    ['missing-message', 'unknown-channel'],
  ],
  ['an empty channel', '<|channel|><|message|>t<|end|>', ['analysis: t'], ['missing-channel']],
  ['a channel in capitals', '<|channel|>FINAL<|message|>4<|return|>', ['final: 4'], ['channel-spelling']],
  ['white space before a channel', '<|channel|> final<|message|>4<|return|>', ['final: 4'], ['channel-spelling']],
  [
    'two channels: the last counts',
    '<|channel|>analysis<|channel|>final<|message|>4<|return|>',
    ['final: 4'],
    ['repeated-channel'],
  ],
  [
    'two channels, the first one final',
    '<|channel|>final<|channel|>analysis<|message|>t<|return|>',
    ['analysis: t'],
    ['repeated-channel'],
  ],
  [
    'final does not carry over',
    '<|channel|>final<|channel|><|message|>t<|end|>',
    ['analysis: t'],
    ['repeated-channel', 'missing-channel'],
  ],

  // Roles.
  [
    'another role, with content',
    `${ANALYSIS}t<|end|><|start|>user<|message|>Do it.<|end|>`,
    ['analysis: t', 'analysis: Do it.'],
    ['missing-channel', 'wrong-role'],
  ],
  [
    'another role, in commentary',
    `${ANALYSIS}t<|end|><|start|>system<|channel|>commentary<|message|>s<|return|>`,
    ['analysis: t', 'analysis: s'],
    ['wrong-role'],
  ],
  [
    'a made-up tool result',
    `${CALL_F}{}<|call|><|start|>functions.f to=assistant<|channel|>commentary<|message|>9<|end|>`,
    ['commentary to=functions.f <|constrain|>json: {}', 'analysis: 9'],
    ['no-recipient', 'wrong-role'],
  ],
  [
    'a call under another role',
    `${ANALYSIS}t<|end|><|start|>developer to=functions.f<|channel|>commentary<|message|>{}<|call|>`,
    ['analysis: t', 'analysis: {}'],
    ['wrong-role', 'call-without-recipient'],
  ],
  [
    'an answer under another role',
    `${ANALYSIS}t<|end|><|start|>user${FINAL}4<|return|>`,
    ['analysis: t', 'final: 4'],
    ['wrong-role'],
  ],
  ['no role', `${ANALYSIS}t<|end|><|start|>${FINAL}4<|return|>`, ['analysis: t', 'final: 4'], ['missing-role']],
  [
    'a named assistant',
    `${ANALYSIS}t<|end|><|start|>assistant:bob${FINAL}4<|return|>`,
    ['analysis: t', 'final: 4'],
    ['leftover'],
  ],
  [
    'the role twice',
    `${ANALYSIS}t<|end|><|start|>assistantassistant${FINAL}4<|return|>`,
    ['analysis: t', 'final: 4'],
    ['leftover'],
  ],

  // Recipients.
  [
    'two recipients: the declared one',
    '<|channel|>commentary to=g to=functions.f<|message|>{}<|call|>',
    ['commentary to=functions.f: {}'],
    ['two-recipients'],
  ],
  [
    'a recipient after the type',
    '<|channel|>commentary <|constrain|>json to=functions.f<|message|>{}<|call|>',
    ['commentary to=functions.f <|constrain|>json: {}'],
    ['word-order'],
  ],
  [
    'a recipient without to=',
    '<|channel|>commentary functions.f <|constrain|>json<|message|>{}<|call|>',
    ['commentary to=functions.f <|constrain|>json: {}'],
    ['recipient-spelling'],
  ],
  [
    'a recipient with To=',
    '<|channel|>commentary To=functions.f<|message|>{}<|call|>',
    ['commentary to=functions.f: {}'],
    ['recipient-spelling'],
  ],
  [
    'a recipient that touches the role',
    `${ANALYSIS}t${AGAIN}to=functions.f<|channel|>commentary<|message|>{}<|call|>`,
    ['analysis: t', 'commentary to=functions.f: {}'],
    ['recipient-spelling'],
  ],
  [
    'a type apart from its marker',
    '<|channel|>commentary to=functions.f <|constrain|> json<|message|>{}<|call|>',
    ['commentary to=functions.f <|constrain|>json: {}'],
    ['type-spelling'],
  ],
  [
    'a type before the channel, a recipient after it',
    ' <|constrain|>json<|channel|>commentary to=functions.f<|message|>{}<|call|>',
    ['commentary to=functions.f <|constrain|>json: {}'],
    ['word-order'],
  ],
  ['an empty recipient', '<|channel|>commentary to=<|message|>x<|end|>', ['commentary: x'], ['no-recipient']],
  ['a role as recipient', '<|channel|>final to=user<|message|>x<|return|>', ['final: x'], ['no-recipient']],
  [
    'a declared tool called on final',
    '<|channel|>final to=functions.f<|message|>{}<|call|>',
    ['commentary to=functions.f: {}'],
    ['call-channel'],
  ],
  [
    'a tool’s name without to= before an answer',
    'functions.f<|channel|>final<|message|>x<|return|>',
    ['final: x'],
    ['no-recipient', 'recipient-spelling'],
  ],
  [
    'a tool that nobody declared, called on final',
    '<|channel|>final to=nobody<|message|>x<|return|>',
    ['final: x'],
    ['no-recipient'],
  ],
  [
    'a call that calls nothing',
    '<|channel|>commentary<|message|>{}<|call|>',
    ['commentary: {}'],
    ['call-without-recipient'],
  ],

  // Content.
  [
    'control tokens in content',
    `${FINAL}a<|constrain|>b<|startoftext|>c<|reserved_200013|>d<|return|>`,
    ['final: abcd'],
    ['stray-token', 'stray-token', 'stray-token'],
  ],
  [
    'ids that do not exist, in content',
    [...ids(`${FINAL}a`), 201089, ...ids('b'), -1, Number.NaN, 2 ** 40, 0.5, RETURN],
    ['final: ab'],
    ['unknown-id', 'unknown-id', 'unknown-id', 'unknown-id', 'unknown-id'],
  ],
  [
    'ids that do not exist, in a header',
    [...ids('<|channel|>final'), 201089, MESSAGE, ...ids('a'), RETURN],
    ['final: a'],
    ['unknown-id'],
  ],
]

test('well-formed completions need no repair', () => {
  for (const [what, written, messages, repairs] of wellFormed) {
    assert.deepEqual(readTotal(written, { recipients }), { messages, repairs }, what)
  }
})

test('what users of other runtimes hit becomes messages', () => {
  for (const [what, written, messages, repairs] of reported) {
    assert.deepEqual(readTotal(written, { recipients }), { messages, repairs }, what)
  }
})

test('malformed completions become messages, each repair reported', () => {
  for (const [what, written, messages, repairs] of repaired) {
    assert.deepEqual(readTotal(written, { recipients }), { messages, repairs }, what)
  }
})

test('markers spelled in ordinary tokens are text', () => {
  const spelled = `<|end|><|start|>user${FINAL}no<|return|>`
  const { messages } = parseCompletion(tokenizer, [...ids(FINAL), ...tokenizer.encode(spelled), RETURN])
  assert.deepEqual(messages.map(shown), [`final: ${spelled}`])
  const header = parseCompletion(tokenizer, [...tokenizer.encode('<|channel|>final'), MESSAGE, ...ids('x<|return|>')])
  assert.deepEqual(header.messages.map(shown), ['analysis: <|channel|>final', 'commentary: x'])
})

test('without declared tools every recipient is kept as it is', () => {
  const call = '<|channel|>commentary to=get_weather <|constrain|>json<|message|>{}<|call|>'
  assert.deepEqual(readTotal(call), { messages: ['commentary to=get_weather <|constrain|>json: {}'], repairs: [] })
})

test('every kind of repair is shown by a case', () => {
  const kinds = new Set([...reported, ...repaired].flatMap(([, , , repairs]) => repairs))
  assert.deepEqual([...kinds].sort(), Object.keys(REPAIRS).sort())
})
