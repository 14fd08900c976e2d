import { seededRandom } from '../../src/base/random.ts'
import type { Message } from '../../src/harmony/message.ts'
import { HarmonyParser, type ParserEvent } from '../../src/harmony/parser.ts'
import { CALL, CHANNEL, CHANNELS, END, END_OF_TEXT, MESSAGE, RETURN, START } from '../../src/harmony/tokens.ts'
import { loadTokenizer } from '../../src/tokenizer/load.ts'
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts'
import type { Row } from './row.ts'

const maxFailures = 20
const recipients = ['functions.get_weather', 'functions.f', 'python', 'browser.search']

export const row: Row = {
  row: 11,
  title: 'Harmony parser fuzz: damaged token streams of the model',
  async run({ long, quick, seed }) {
    const n = long ? 10_000_000 : quick ? 20_000 : 200_000
    const tokenizer = await loadTokenizer()
    const fuzz = createFuzz(tokenizer, seededRandom(seed))
    const failures: string[] = []
    const counts = { canaries: 0, finals: 0, repaired: 0 }
    for (let i = 0; i < n; i++) {
      const { tokens, role } = fuzz.next()
      for (const problem of fuzz.check(tokens, role, counts)) {
        if (failures.length < maxFailures) failures.push(`stream ${i}, [${tokens}], role ${role}: ${problem}`)
      }
    }
    // Enough must be left of what the row is about: thoughts, answers, and damage.
    for (const [what, count] of Object.entries(counts)) {
      if (count < n / 3) failures.push(`only ${count} ${what} in ${n} streams`)
    }
    return { n, failures }
  },
  planted: [
    {
      file: 'src/harmony/header.ts',
      search: "return ended === 'return' ? 'commentary' : 'analysis'",
      replace: "return 'final'",
      what: 'text without header is an answer',
    },
    {
      file: 'src/harmony/header-channel.ts',
      search: "return { channel: 'analysis', rest, flaw: 'unknown-channel' }",
      replace: "return { channel: 'final', rest, flaw: 'unknown-channel' }",
      what: 'unknown channels are final',
    },
    {
      file: 'src/harmony/parser-total.ts',
      search: "this.#openContent({ channel: 'analysis', text: '' }, undefined)",
      replace: "this.#openContent({ channel: 'final', text: '' }, undefined)",
      what: 'what follows a lost header is final',
    },
    {
      file: 'src/harmony/parser-total.ts',
      search: 'if (token === START || token === CHANNEL) this.#nextMessage(token)',
      replace: 'if (token === START) this.#nextMessage(token)',
      what: 'a <|channel|> in content begins no message',
    },
    {
      file: 'src/harmony/parser-total.ts',
      search: "return 'endoftext'",
      replace: 'return undefined',
      what: 'an answer does not end at <|endoftext|>',
    },
    {
      file: 'src/harmony/header-segments.ts',
      search: ' && tokenizer.tokenBytes(token) !== undefined',
      replace: '',
      what: 'ids that do not exist count as text',
    },
    {
      file: 'src/harmony/parser-total.ts',
      search: "const message: Message = { role: 'assistant',",
      replace:
        "const message: Message = { role: this.#afterStart && this.#tokens === undefined ? 'tool' : 'assistant',",
      what: 'a repaired message is a tool’s',
    },
  ],
}

/** Words that stand in analysis only. Each is one token, and no other text holds it. */
const CANARIES = [' zebra', ' walrus', ' falcon', ' lizard', ' penguin', ' dolphin', ' elephant', ' tortoise']
const CONTROL = [CALL, CHANNEL, END, END_OF_TEXT, MESSAGE, RETURN, START, 199998, 200003, 200013]

/** Draws streams and judges what the parser makes of them, by rules that know nothing of the parser. */
function createFuzz(tokenizer: Tokenizer, random: () => number) {
  const ids = (text: string) => tokenizer.encode(text, { allowedSpecial: 'all' })
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]
  const canaries = CANARIES.map(text => ids(text)[0])
  const textOf = new Map(canaries.map((token, k) => [token, CANARIES[k]]))

  const analysis = ids('<|channel|>analysis<|message|>')
  const thoughts = ['We need', ' the user wants', ' to call functions.f', ' 4', ' analysis', ' final', ' 🙂'].map(ids)
  const endings = [END, RETURN, CALL]
  const again = ids('<|start|>assistant')
  const answer = ids('<|channel|>final<|message|>')
  const answers = [
    'The answer',
    ' is 42',
    '.',
    ' Grüße',
    ' 你好',
    ' 🧿',
    '\n\n',
    ' to=python',
    ' assistant',
    ' json',
  ].map(ids)
  const calls = [
    '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a":1}',
    ' to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{}',
    '<|channel|>analysis to=python code<|message|>print(1)',
    '<|channel|>commentary to=get_weather<|message|>{',
    '<|channel|>commentary<|message|>One moment.',
  ].map(ids)
  const words = [
    'user',
    'assistant',
    'analysis',
    'final',
    'commentary',
    ' to=functions.f',
    'system',
    ' json',
    '\n',
    'functions.f',
  ].map(ids)
  const [final] = ids('final')

  function message(): number[] {
    const roll = random()
    if (roll < 0.4) return [...analysis, ...pick(thoughts), pick(canaries), ...pick(thoughts)]
    if (roll < 0.8) return [...answer, ...pick(answers), ...pick(answers)]
    return pick(calls)
  }

  function valid(): number[] {
    const tokens: number[] = []
    const numMessages = 1 + Math.floor(random() * 3)
    for (let k = 0; k < numMessages; k++) {
      if (k > 0) tokens.push(END, ...again)
      tokens.push(...message())
    }
    if (random() < 0.9) tokens.push(pick(endings))
    return tokens
  }

  function damage(tokens: number[]): void {
    const at = Math.floor(random() * (tokens.length + 1))
    const other = Math.floor(random() * tokens.length)
    switch (Math.floor(random() * 8)) {
      case 0:
        tokens.splice(at, 1)
        break
      case 1:
        tokens.splice(at, 1 + Math.floor(random() * 6))
        break
      case 2:
        tokens.splice(at, 0, pick(CONTROL))
        break
      case 3:
        tokens.splice(at, 0, ...pick(words))
        break
      case 4:
        tokens.splice(at, 0, randomId())
        break
      case 5:
        if (at < tokens.length) tokens[at] = pick(CONTROL)
        break
      case 6:
        if (at < tokens.length) [tokens[at], tokens[other]] = [tokens[other], tokens[at]]
        break
      default:
        if (at < tokens.length) tokens.splice(at, 0, tokens[at])
    }
  }

  /** Any id, some of which do not exist, but none whose text would look like a leaked control token or a thought. */
  function randomId(): number {
    const id = pick([-1, 199999 + Math.floor(random() * 1100), Math.floor(random() * 199998), 2 ** 32 - 1])
    return canaries.includes(id) || (isOrdinary(id) && tokenizer.decode([id]).includes('<|')) ? END : id
  }

  function isOrdinary(id: number): boolean {
    return id < 199998 && tokenizer.tokenBytes(id) !== undefined
  }

  function* check(
    tokens: number[],
    role: 'assistant' | null,
    counts: { canaries: number; finals: number; repaired: number },
  ) {
    const events: ParserEvent[] = []
    const parser = new HarmonyParser(tokenizer, { role, recipients: random() < 0.5 ? recipients : undefined })
    try {
      for (const token of tokens) events.push(...parser.push(token))
      events.push(...parser.finish())
    } catch (error) {
      yield `threw ${error}`
      return
    }
    const deltas: string[] = []
    for (const event of events) {
      if (event.type === 'header' && event.role !== 'assistant') yield `the role ${event.role}`
      if (event.type === 'delta') deltas[event.index] = (deltas[event.index] ?? '') + event.text
      if (event.type === 'message' && (deltas[event.index] ?? '') !== event.message.content)
        yield 'deltas are not the content'
    }
    if (events.some(event => event.type === 'repair')) counts.repaired++
    yield* checkMessages(parser.messages)
    const finals = parser.messages.filter(({ channel }) => channel === 'final').map(({ content }) => content as string)
    yield* checkCanaries(tokens, finals, counts)
    yield* checkFinals(tokens, finals, counts)
  }

  function* checkMessages(messages: readonly Message[]) {
    for (const { role, channel, content } of messages) {
      if (role !== 'assistant') yield `a message of the role ${role}`
      if (!CHANNELS.includes(channel as never)) yield `the channel ${channel}`
      if ((content as string).includes('<|')) yield `a control token in content: ${content}`
    }
  }

  /** A thought is in an answer only if the tokens before it say, in so many words, that an answer goes on there. */
  function* checkCanaries(tokens: number[], finals: string[], counts: { canaries: number }) {
    const allowed = new Set<number>()
    const present = new Set<number>()
    tokens.forEach((token, at) => {
      if (!textOf.has(token)) return
      present.add(token)
      if (saysFinal(tokens, at)) allowed.add(token)
    })
    counts.canaries += present.size
    for (const token of present) {
      if (!allowed.has(token) && finals.some(text => text.includes(textOf.get(token)!))) yield 'analysis in final'
    }
  }

  /** Whether the last header before a place is `<|channel|>final`, with `<|message|>` or without, or the bare word. */
  function saysFinal(tokens: number[], place: number): boolean {
    let at = lastBoundary(tokens, place)
    if (tokens[at] === CHANNEL) return wordsOf(tokens, at + 1, place).startsWith('final')
    if (tokens[at] !== MESSAGE) return false
    // <|message|> twice is one.
    let end = at
    for (
      at = lastBoundary(tokens, end);
      tokens[at] === MESSAGE && wordsOf(tokens, at, end) === '';
      at = lastBoundary(tokens, end)
    ) {
      end = at
    }
    const words = wordsOf(tokens, at + 1, end)
    if (tokens[at] === CHANNEL) return words.startsWith('final')
    return /^(?:assistant|\s)*final\s*$/.test(words)
  }

  function lastBoundary(tokens: number[], before: number): number {
    let at = before - 1
    while (at >= 0 && ![CALL, CHANNEL, END, END_OF_TEXT, MESSAGE, RETURN, START].includes(tokens[at])) at--
    return at
  }

  function wordsOf(tokens: number[], from: number, to: number): string {
    return tokenizer.decode(tokens.slice(from, to).filter(isOrdinary)).trim().toLowerCase()
  }

  /** Every `<|channel|>final<|message|>` with text up to an end is an answer, in this order. */
  function* checkFinals(tokens: number[], finals: string[], counts: { finals: number }): Generator<string> {
    let next = 0
    for (let at = 0; at + 2 < tokens.length; at++) {
      if (tokens[at] !== CHANNEL || tokens[at + 1] !== final || tokens[at + 2] !== MESSAGE) continue
      const before = tokens.slice(lastBoundary(tokens, at) + 1, at)
      if (wordsOf(before, 0, before.length).includes('=')) continue // a call on the wrong channel
      let end = at + 3
      while (end < tokens.length && isOrdinary(tokens[end])) end++
      if (![END, RETURN, END_OF_TEXT].includes(tokens[end])) continue
      counts.finals++
      const text = tokenizer.decode(tokens.slice(at + 3, end))
      next = finals.indexOf(text, next) + 1
      if (next === 0) return yield `a finished answer is lost: ${text}`
    }
  }

  return {
    next(): { tokens: number[]; role: 'assistant' | null } {
      const tokens = valid()
      const numDamages = Math.floor(random() * 5)
      for (let k = 0; k < numDamages; k++) damage(tokens)
      return { tokens, role: random() < 0.9 ? 'assistant' : null }
    },
    check,
  }
}
