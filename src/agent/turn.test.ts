import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { DeviceError } from '../base/errors.ts'
import { ScriptedEngine } from '../engine/testing.ts'
import type { Message } from '../harmony/message.ts'
import { renderForCompletion } from '../harmony/render.ts'
import { loadTokenizer } from '../tokenizer/load.ts'
import { runTurn, type TurnEvent } from './turn.ts'

const tokenizer = await loadTokenizer()
const tokensOf = (text: string) => tokenizer.encode(text, { allowedSpecial: 'all' })
const prompt = tokensOf('<|start|>assistant')

async function collect<T>(events: AsyncIterable<T>): Promise<T[]> {
  const collected: T[] = []
  for await (const event of events) collected.push(event)
  return collected
}

async function eventsOf(
  script: ConstructorParameters<typeof ScriptedEngine>[0],
  request: Partial<Parameters<typeof runTurn>[2]> = {},
): Promise<TurnEvent[]> {
  return collect(runTurn(new ScriptedEngine(script), tokenizer, { prompt, ...request }))
}

/** The events that carry meaning, pieces of text joined. */
function meaningOf(events: TurnEvent[]): string[] {
  const said: { type: string; text: string }[] = []
  for (const event of events) {
    if (event.type === 'call') {
      const { recipient, arguments: given, complete } = event.call
      said.push({ type: 'call', text: `${recipient}(${given})${complete ? '' : '…'}` })
    } else if (event.type === 'end') said.push({ type: 'end', text: event.reason })
    else if (event.type === 'repair') said.push({ type: 'repair', text: event.repair.kind })
    else if (event.type === 'analysis' || event.type === 'preamble' || event.type === 'final') {
      if (said.at(-1)?.type === event.type) said.at(-1)!.text += event.text
      else said.push({ type: event.type, text: event.text })
    }
  }
  return said.map(({ type, text }) => `${type}: ${text}`)
}

const thought = '<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant'
const call = '<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"at":'
const turns: { title: string; text: string; recipients?: string[]; meaning: string[] }[] = [
  {
    title: 'thought and answer',
    text: `${thought}<|channel|>final<|message|>Grüße 🎶.<|return|>`,
    meaning: ['analysis: Hm.', 'final: Grüße 🎶.', 'end: stop'],
  },
  {
    title: 'words before a call, and the call',
    text: `${thought}<|channel|>commentary<|message|>One moment.<|end|><|start|>assistant${call}1}<|call|>`,
    meaning: ['analysis: Hm.', 'preamble: One moment.', 'call: functions.look({"at":1})', 'end: stop'],
  },
  {
    title: 'a call whose recipient stands before the channel',
    text: ' to=functions.look<|channel|>commentary <|constrain|>json<|message|>{}<|call|>',
    meaning: ['call: functions.look({})', 'end: stop'],
  },
  {
    title: 'a call of python on analysis, its code no thought',
    text: '<|channel|>analysis to=python code<|message|>print(1)<|call|>',
    meaning: ['call: python(print(1))', 'end: stop'],
  },
  {
    title: 'a call that the end of the context cuts off',
    text: `${thought}${call}`,
    meaning: ['analysis: Hm.', 'call: functions.look({"at":)…', 'end: length'],
  },
  {
    title: 'an answer that the end of the context cuts off',
    text: '<|channel|>final<|message|>One, two',
    meaning: ['final: One, two', 'end: length'],
  },
  {
    title: 'a thought that the end of the context cuts off is no answer',
    text: '<|channel|>analysis<|message|>Let me see',
    meaning: ['analysis: Let me see', 'end: length'],
  },
  {
    title: 'a refusal without any header, which the user must see',
    text: "I'm sorry, but I can't help with that.<|return|>",
    meaning: ['repair: no-header', "preamble: I'm sorry, but I can't help with that.", 'end: stop'],
  },
  {
    title: 'a name without its namespace, matched to the declared tool',
    text: '<|channel|>commentary to=look <|constrain|>json<|message|>{}<|call|>',
    recipients: ['functions.look'],
    meaning: ['repair: bare-name', 'call: functions.look({})', 'end: stop'],
  },
  {
    title: 'a recipient that no header can carry, which is no call',
    text: '<|channel|>commentary to=a|b=c <|constrain|>json<|message|>{}<|call|>',
    meaning: ['repair: no-recipient', 'preamble: {}', 'repair: call-without-recipient', 'end: stop'],
  },
  {
    title: 'a recipient of nothing that can be seen, which must not become the role "tool"',
    text: '<|channel|>commentary to=\u200b<|message|>{}<|call|>',
    meaning: ['repair: no-recipient', 'preamble: {}', 'repair: call-without-recipient', 'end: stop'],
  },
]

describe('runTurn', () => {
  for (const { title, text, recipients, meaning } of turns) {
    it(`reads ${title}`, async () => {
      const events = await eventsOf([tokensOf(text)], { recipients })
      assert.deepEqual(meaningOf(events), meaning)
    })
  }

  it('gives every token, the usage, and the messages with the tokens that the model wrote', async () => {
    const tokens = tokensOf(`${thought}<|channel|>final<|message|>Yes.<|return|>`)
    const events = await eventsOf([tokens])
    assert.deepEqual(
      events.flatMap(event => (event.type === 'token' ? [event.token] : [])),
      tokens,
    )
    const end = events.at(-1)
    assert.equal(end?.type, 'end')
    if (end?.type !== 'end') return
    assert.deepEqual(end.usage, { promptTokens: 2, cachedTokens: 0, completionTokens: tokens.length })
    assert.deepEqual(
      end.messages,
      events.flatMap(event => (event.type === 'message' ? [event.message] : [])),
    )
    assert.deepEqual(
      end.messages.map(({ channel, content }) => [channel, content]),
      [
        ['analysis', 'Hm.'],
        ['final', 'Yes.'],
      ],
    )
    assert.deepEqual(end.messages[1].tokens, tokensOf('<|channel|>final<|message|>Yes.'))
  })

  it('rejects as the engine does, after what was said', async () => {
    const lost = new DeviceError('the device was lost')
    const events: TurnEvent[] = []
    await assert.rejects(async () => {
      const engine = new ScriptedEngine([{ tokens: tokensOf('<|channel|>final<|message|>One'), error: lost }])
      for await (const event of runTurn(engine, tokenizer, { prompt })) events.push(event)
    }, lost)
    assert.deepEqual(meaningOf(events), ['final: One'])
  })

  it('hands the request on as it is, and marks where the conversation may fork', async () => {
    const engine = new ScriptedEngine([tokensOf('<|return|>')])
    const request = { maxTokens: 3, sampling: { seed: 1 }, owner: 'a', stopTokens: [200002] }
    await collect(runTurn(engine, tokenizer, { prompt, recipients: ['functions.f'], ...request }))
    assert.deepEqual(engine.requests, [{ ...request, tokens: prompt, marks: [prompt.length - 1, prompt.length + 1] }])
  })

  it('whatever the model writes gives a turn, from which the conversation can go on', async () => {
    const pieces = [
      ...[
        '<|channel|>',
        '<|message|>',
        '<|end|>',
        '<|start|>',
        '<|call|>',
        '<|constrain|>',
        '<|return|>',
        '<|endoftext|>',
      ],
      ...[
        'assistant',
        'final',
        'analysis',
        'commentary',
        ' to=',
        ' to=python',
        'functions.f',
        'system',
        'user',
        ' ',
        '\n',
      ],
      ...['a|b', 'c:d=', '\u200b', '<x>', '{"a":1}', 'é', 'json', '…'.repeat(200)],
    ]
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom(...pieces), { maxLength: 12 }),
        fc.boolean(),
        async (parts, declared) => {
          const events = await eventsOf([tokensOf(parts.join(''))], {
            recipients: declared ? ['functions.f'] : undefined,
          })
          const end = events.at(-1)
          assert.ok(end?.type === 'end')
          const results = end.messages.flatMap(({ recipient }): Message[] => {
            return recipient === undefined
              ? []
              : [{ role: 'tool', name: recipient, recipient: 'assistant', content: 'no' }]
          })
          const calls = events.filter(event => event.type === 'call').length
          assert.equal(calls, results.length)
          renderForCompletion(tokenizer, [{ role: 'user', content: 'Hi' }, ...end.messages, ...results], 'assistant')
          const finals = end.messages.filter(({ channel, recipient }) => channel === 'final' && recipient === undefined)
          const shown = events.flatMap(event => (event.type === 'final' ? [event.text] : [])).join('')
          assert.equal(shown, finals.map(({ content }) => content).join(''))
        },
      ),
      { numRuns: 1500 },
    )
  })
})
