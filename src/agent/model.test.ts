import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { RequestError } from '../base/errors.ts'
import type { EngineInfo } from '../engine/engine.ts'
import { ScriptedEngine } from '../engine/testing.ts'
import type { Message } from '../harmony/message.ts'
import { loadTokenizer } from '../tokenizer/load.ts'
import type { RespondOptions } from './model.ts'
import { Model } from './model.ts'

const tokenizer = await loadTokenizer()
const answer = tokenizer.encode('<|channel|>final<|message|>Yes.<|return|>', { allowedSpecial: 'all' })
const written = (text: string, behind: readonly number[] = []) => [
  ...tokenizer.encode(text, { allowedSpecial: 'all' }),
  ...behind,
]
const weather = {
  name: 'get_weather',
  description: 'Tells the weather.',
  parameters: { type: 'object', properties: {} },
}

async function collect<T>(events: AsyncIterable<T>): Promise<T[]> {
  const collected: T[] = []
  for await (const event of events) collected.push(event)
  return collected
}

function scripted(info: Partial<EngineInfo> = {}) {
  const engine = new ScriptedEngine([answer], info)
  return { engine, model: new Model(engine, tokenizer) }
}

async function promptOf(input: string | Message[], options?: RespondOptions): Promise<string> {
  const { engine, model } = scripted()
  await collect(model.respond(input, options))
  return tokenizer.decode(engine.requests[0].tokens)
}

describe('Model.respond', () => {
  it('heads a question with the system message that gpt-oss was trained on', async () => {
    assert.equal(
      await promptOf('Hi', { reasoning: 'low', date: '2026-05-01' }),
      '<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n' +
        'Current date: 2026-05-01\n\nReasoning: low\n\n# Valid channels: analysis, commentary, final. Channel must be ' +
        'included for every message.<|end|><|start|>user<|message|>Hi<|end|><|start|>assistant',
    )
  })

  it('tells today’s date and medium reasoning when nothing is said', async () => {
    const now = new Date()
    const date = [now.getFullYear(), now.getMonth() + 1, now.getDate()].map(n => String(n).padStart(2, '0')).join('-')
    assert.match(await promptOf('Hi'), new RegExp(`Current date: ${date}\n\nReasoning: medium\n`))
  })

  it('puts instructions and tools into a developer message after the system message', async () => {
    const prompt = await promptOf('Hi', { developer: 'Be brief.', tools: [weather] })
    assert.match(
      prompt,
      /Calls to these tools must go to the commentary channel: 'functions'\.<\|end\|><\|start\|>developer<\|message\|># Instructions\n\nBe brief\.\n\n# Tools\n\n## functions\n\nnamespace functions \{/,
    )
  })

  it('keeps a system message of the conversation’s own, developer options behind it', async () => {
    const conversation: Message[] = [
      { role: 'system', content: 'Mine.' },
      { role: 'user', content: 'Hi' },
    ]
    assert.equal(
      await promptOf(conversation, { developer: 'Be brief.' }),
      '<|start|>system<|message|>Mine.<|end|><|start|>developer<|message|># Instructions\n\nBe brief.<|end|>' +
        '<|start|>user<|message|>Hi<|end|><|start|>assistant',
    )
  })

  it('matches a bare name to a tool, whether it came by option or in a message', async () => {
    const bare = tokenizer.encode('<|channel|>commentary to=get_weather<|message|>{}<|call|>', {
      allowedSpecial: 'all',
    })
    const developer: Message = {
      role: 'developer',
      content: [{ type: 'developer', tools: ['python', { name: 'functions', tools: [weather] }] }],
    }
    const inputs: [string | Message[], RespondOptions][] = [
      ['Hi', { tools: [weather] }],
      [[developer, { role: 'user', content: 'Hi' }], {}],
    ]
    for (const [input, options] of inputs) {
      const model = new Model(new ScriptedEngine([bare]), tokenizer)
      const events = await collect(model.respond(input, options))
      const call = events.find(event => event.type === 'call')
      assert.equal(call?.call.recipient, 'functions.get_weather')
    }
  })

  it('asks on behalf of one owner, unless another is given', async () => {
    const { engine, model } = scripted()
    await collect(model.respond('Hi'))
    await collect(model.respond('Hi', { owner: 'other', maxTokens: 5, sampling: { seed: 3 } }))
    assert.deepEqual(
      engine.requests.map(({ owner, maxTokens, sampling }) => ({ owner, maxTokens, sampling })),
      [
        { owner: 'default', maxTokens: undefined, sampling: { temperature: 1 } },
        { owner: 'other', maxTokens: 5, sampling: { seed: 3, temperature: 1 } },
      ],
    )
  })

  it('runs a finished turn without its thoughts once more, for the next prompt', async () => {
    const engine = new ScriptedEngine([written('<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant', answer)])
    const model = new Model(engine, tokenizer)
    const end = (await collect(model.respond('Hi', { owner: 'a' }))).at(-1)
    assert.ok(end?.type === 'end')
    const [{ tokens, ...request }] = engine.prefills
    assert.deepEqual(request, { owner: 'a', maxTokens: 0, priority: 'droppable' })
    const messages: Message[] = [{ role: 'user', content: 'Hi' }, ...end.messages, { role: 'user', content: 'And?' }]
    await collect(model.respond(messages))
    assert.match(
      tokenizer.decode(tokens),
      /Hi<\|end\|><\|start\|>assistant<\|channel\|>final<\|message\|>Yes\.<\|end\|>$/,
    )
    assert.deepEqual(engine.requests[1].tokens.slice(0, tokens.length), tokens)
  })

  it('runs nothing again where a turn had no thoughts, or has only called a tool', async () => {
    const call = '<|channel|>commentary to=functions.get_weather<|message|>{}<|call|>'
    const thoughtful = `<|channel|>analysis<|message|>Look.<|end|><|start|>assistant${call}`
    for (const tokens of [answer, written(call), written(thoughtful)]) {
      const engine = new ScriptedEngine([tokens])
      await collect(new Model(engine, tokenizer).respond('Hi'))
      assert.deepEqual(engine.prefills, [])
    }
  })

  it('lets nano think little and take no chances by default, and says what it is', async () => {
    const { engine, model } = scripted({ model: 'gpt-oss-nano' })
    assert.match(model.notice ?? '', /tiny demonstration model/)
    assert.equal(scripted().model.notice, undefined)
    assert.equal(scripted({ notice: 'Slowly.' }).model.notice, 'Slowly.')
    assert.match(scripted({ model: 'gpt-oss-nano', notice: 'Slowly.' }).model.notice ?? '', /real use\.\nSlowly\.$/)
    await collect(model.respond('Hi'))
    await collect(model.respond('Hi', { reasoning: 'high', sampling: { temperature: 0.7 } }))
    assert.deepEqual(
      engine.requests.map(({ sampling }) => sampling?.temperature),
      [0, 0.7],
    )
    assert.deepEqual(
      engine.requests.map(({ tokens }) => /Reasoning: (\w+)/.exec(tokenizer.decode(tokens))?.[1]),
      ['low', 'high'],
    )
  })

  it('refuses an empty conversation, and models that cannot read text', async () => {
    await assert.rejects(collect(scripted().model.respond([])), RequestError)
    await assert.rejects(collect(scripted({ vocabSize: 48 }).model.respond('Hi')), /this model has 48 tokens/)
  })
})

describe('Model.fit', () => {
  const turns: Message[] = Array.from({ length: 40 }, (_, i): Message[] => [
    { role: 'user', content: `Question ${i}: ${'word '.repeat(20)}` },
    { role: 'assistant', channel: 'final', content: 'Yes.' },
  ]).flat()

  it('leaves a quarter of a small context, or 1,024 tokens of a large one, to the answer', () => {
    for (const [contextLength, room] of [
      [400, 100],
      [900, 225],
    ] as const) {
      const { tokens, droppedTurns } = scripted({ contextLength }).model.fit(turns)
      assert.ok(tokens.length <= contextLength - room)
      assert.ok(tokens.length + 40 > contextLength - room, 'one turn more would not have fitted')
      assert.ok(droppedTurns > 0)
    }
    assert.equal(scripted({ contextLength: 5000 }).model.fit(turns).droppedTurns, 0)
  })

  it('leaves no more than maxTokens, and knows the instructions that respond will add', () => {
    const { model } = scripted({ contextLength: 900 })
    const few = model.fit(turns, { maxTokens: 10 }).droppedTurns
    assert.ok(few < model.fit(turns).droppedTurns)
    assert.ok(model.fit(turns, { maxTokens: 10, developer: 'word '.repeat(300) }).droppedTurns > few)
  })
})

describe('Model.generate', () => {
  it('continues tokens without reading them', async () => {
    const { engine, model } = scripted()
    const events = await collect(model.generate([1, 2], { maxTokens: 3 }))
    assert.deepEqual(engine.requests, [{ tokens: [1, 2], maxTokens: 3 }])
    assert.deepEqual(
      events.flatMap(event => (event.type === 'token' ? [event.token] : [])),
      answer.slice(0, 3),
    )
  })
})
