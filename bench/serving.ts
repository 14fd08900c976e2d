/**
 * What sharing one model costs and spares, each figure beside its limit of the same run:
 *
 *   node --conditions=tutti-source bench/serving.ts FOLDER [sessions] [turn] [gap] [--prompt N] [--seconds N] [--json]
 *
 *   sessions  tokens/s of eight users' answers through the scheduler, beside eight sequences in passes of their own, and one
 *   turn      milliseconds to the first token of a second turn, beside those of running its whole prompt: at once after an
 *             answer with thoughts, and after the model has been idle
 *   gap       milliseconds between two tokens of a stream, p99 and usual, while a prompt of N tokens runs beside it; that
 *             prompt's tokens/s beside alone; how late the event loop of the caller came
 *
 * FOLDER: a checkpoint; the device is the cpu. `turn` and `gap` run prompts of N tokens, 4,096 by default: some minutes.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { openFolder } from '../src/checkpoint/source.node.ts'
import { SpeedTest } from '../src/cli/measure.ts'
import { openDevice } from '../src/device/open.node.ts'
import type { Engine, GenerateEvent, GenerateRequest } from '../src/engine/engine.ts'
import { LocalEngine } from '../src/engine/local-engine.ts'
import { load } from '../src/index.ts'
import { openModel } from '../src/open-engine.ts'
import { availableMemory } from '../src/platform.node.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    prompt: { type: 'string', default: '4096' },
    seconds: { type: 'string', default: '20' },
    json: { type: 'boolean', default: false },
  },
})
const [folder, ...named] = positionals
if (!folder) throw new Error('say which checkpoint: bench/serving.ts FOLDER')
const promptLength = Number(values.prompt)
const greedy = { sampling: { temperature: 0 }, stopTokens: [] }
const numUsers = 8

function print(measure: string, figures: Record<string, number>): void {
  const rounded = Object.entries(figures).map(([name, value]) => [name, Number(value.toPrecision(4))])
  if (values.json) console.log(JSON.stringify({ measure, ...Object.fromEntries(rounded) }))
  else console.log(`${measure.padEnd(10)} ${rounded.map(([name, value]) => `${name} ${value}`).join(', ')}`)
}

let seed = 1
function randomTokens(count: number, vocabSize: number): number[] {
  return Array.from({ length: count }, () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0
    return Math.floor((seed / 2 ** 32) * Math.min(vocabSize, 199_000))
  })
}

const quantile = (numbers: readonly number[], q: number): number =>
  numbers.toSorted((a, b) => a - b)[Math.min(numbers.length - 1, Math.floor(q * numbers.length))]

/** When each token came. */
async function arrivals(events: AsyncIterable<GenerateEvent>, until = Infinity): Promise<number[]> {
  const times: number[] = []
  for await (const event of events) {
    if (event.type === 'token') times.push(performance.now())
    if (performance.now() > until) break
  }
  return times
}

// --- eight users beside eight sequences, in turn

async function sessions(): Promise<void> {
  const { device, notice } = openDevice({ device: 'cpu' })
  if (notice) throw new Error(notice)
  const opened = await openModel({
    folder: await openFolder(folder),
    device,
    availableMemory: availableMemory(),
    contextLength: 8192,
  })
  const { model, maxChunk, plan } = opened
  const engine = new LocalEngine(model, { ...opened, model: 'm', device: device.name, cacheBytes: plan.cache })
  const test = new SpeedTest(model, maxChunk)
  const rounds: { own: number; scheduled: number; one: number }[] = []
  for (let round = 0; round < 3; round++) {
    const one = await test.decode()
    const own = await test.decode(0, numUsers)
    const maxTokens = 48
    const answers = Array.from({ length: numUsers }, (_, n) => {
      const tokens = randomTokens(16 + n, model.config.vocabSize)
      return arrivals(engine.generate({ tokens, maxTokens, owner: `${n}`, ...greedy }))
    })
    const all = await Promise.all(answers)
    // While all of them are being answered: from the last's first token to the first's last.
    const begin = Math.max(...all.map(times => times[0]))
    const end = Math.min(...all.map(times => times.at(-1)!))
    const count = all.flat().filter(time => time > begin && time <= end).length
    rounds.push({ own, scheduled: (1000 * count) / (end - begin), one })
  }
  const median = (of: 'own' | 'scheduled' | 'one') =>
    quantile(
      rounds.map(round => round[of]),
      0.5,
    )
  const [own, scheduled, one] = [median('own'), median('scheduled'), median('one')]
  print('sessions', { scheduled, own, one, ratio: scheduled / own, streams: scheduled / one })
  await engine.close()
}

// --- the second turn

async function timeToFirst(engine: Engine, request: GenerateRequest) {
  const begun = performance.now()
  let run = 0
  let first = 0
  const tokens: number[] = []
  for await (const event of engine.generate(request)) {
    if (event.type === 'prefill') run = event.total
    if (event.type === 'token') {
      first ||= performance.now() - begun
      tokens.push(event.token)
    }
  }
  return { ms: first, run, tokens }
}

async function turn(): Promise<void> {
  const { engine } = await load(folder, { device: 'cpu', contextLength: promptLength + 1024 })
  const { vocabSize } = engine.info
  const prompt = randomTokens(promptLength, vocabSize)
  const [thoughts, final, more] = [64, 64, 32]
  const marks = [promptLength - 1, promptLength + 1]
  const question = { ...greedy, owner: 'a', maxTokens: 1 }
  const whole = await timeToFirst(engine, { ...greedy, tokens: prompt, owner: 'a', marks, maxTokens: thoughts + final })
  // The answer is its first token, which the history keeps, then thoughts, which it drops, then the final.
  const history = [...prompt, whole.tokens[0], ...whole.tokens.slice(thoughts)]
  const next = [...history, ...randomTokens(more, vocabSize)]
  const atOnce = await timeToFirst(engine, { ...question, tokens: next, marks: [next.length - 1] })
  await arrivals(engine.generate({ tokens: history, owner: 'a', maxTokens: 0, priority: 'droppable' }))
  const later = [...history, ...randomTokens(more, vocabSize)]
  const afterIdle = await timeToFirst(engine, { ...question, tokens: later, marks: [later.length - 1] })
  const msPerToken = whole.ms / whole.run
  print('turn', {
    recomputed: msPerToken * next.length,
    'at once': atOnce.ms,
    ran: atOnce.run,
    'times faster': (msPerToken * next.length) / atOnce.ms,
    'after idle': afterIdle.ms,
    'ran then': afterIdle.run,
    'times faster then': (msPerToken * later.length) / afterIdle.ms,
  })
  await engine.close()
}

// --- a stream beside a prompt

async function gap(): Promise<void> {
  const { engine } = await load(folder, { device: 'cpu', contextLength: 2 * promptLength + 4096 })
  const { vocabSize } = engine.info
  const stream = () => ({ tokens: randomTokens(32, vocabSize), maxTokens: 4096, owner: 'stream', ...greedy })
  const prompt = () => ({ tokens: randomTokens(promptLength, vocabSize), maxTokens: 1, owner: 'prompt', ...greedy })
  const gaps = (times: readonly number[]) => times.slice(1).map((time, i) => time - times[i])

  const idle = await lateness(() => sleep(2000))
  const usual = gaps(await arrivals(engine.generate(stream()), performance.now() + 1000 * Number(values.seconds)))
  const alone = await timeToFirst(engine, prompt())
  let beside = { ms: 0 }
  let busy: number[] = []
  const late = await lateness(async () => {
    const controller = new AbortController()
    const times: number[] = []
    const reading = (async () => {
      for await (const event of engine.generate(stream(), { signal: controller.signal })) {
        if (event.type === 'token') times.push(performance.now())
      }
    })().catch(() => {})
    while (times.length < 5) await sleep(20)
    const from = performance.now()
    beside = await timeToFirst(engine, prompt())
    const to = performance.now()
    controller.abort()
    await reading
    busy = gaps(times.filter(time => time >= from && time <= to))
  })
  const usualGap = quantile(usual, 0.5)
  print('gap', {
    usual: usualGap,
    'usual p99': quantile(usual, 0.99),
    beside: quantile(busy, 0.5),
    'beside p99': quantile(busy, 0.99),
    'p99 times usual': quantile(busy, 0.99) / usualGap,
    'prefill alone': (1000 * promptLength) / alone.ms,
    'prefill beside': (1000 * promptLength) / beside.ms,
    'prefill keeps': alone.ms / beside.ms,
    'event loop late p99': late - idle,
  })
  await engine.close()
}

/** p99 of how late the event loop comes back meanwhile. */
async function lateness(work: () => Promise<unknown>): Promise<number> {
  const delays = monitorEventLoopDelay({ resolution: 1 })
  delays.enable()
  await work()
  delays.disable()
  return delays.percentile(99) / 1e6
}

const alive = setInterval(() => {}, 1000) // what may be dropped keeps no process waiting
const measures = { sessions, turn, gap }
for (const [name, measure] of Object.entries(measures)) if (named.length === 0 || named.includes(name)) await measure()
clearInterval(alive)
