import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { seededRandom } from '../base/random.ts'
import { ReferenceDevice } from '../device/reference.ts'
import type { Ops } from '../kernels/ops.ts'
import type { ModelConfig } from '../model/config.ts'
import { Session } from './session.ts'
import { collect, LateDevice, randomModel, smallConfig } from './testing.ts'

const { slidingWindow, vocabSize, numHiddenLayers } = smallConfig
/** Tokens before a position that its windows depend on: three windowed layers see four back each. */
const reach = Math.ceil(numHiddenLayers / 2) * (slidingWindow - 1)
const contextLength = 256
const model = await randomModel()

const randomTokens = (length: number, seed: number) => {
  const random = seededRandom(seed)
  return Array.from({ length }, () => Math.floor(random() * vocabSize))
}

/** Logits after `tokens`, of a session that has held nothing else. */
async function freshLogits(tokens: readonly number[], maxChunk = 16): Promise<Float32Array> {
  using session = new Session(model, { contextLength, maxChunk })
  await session.sync(tokens)
  return session.logits!
}

/** Stops at the nth time it is asked: once before each layer, and once behind the last. */
const stopAt = (n: number) => () => n-- === 0

test('sync reports what it reused and what it ran', async () => {
  const tokens = randomTokens(100, 1)
  using session = new Session(model, { contextLength, maxChunk: 16 })
  assert.deepEqual(await session.sync(tokens), { reused: 0, ran: 100, finished: true })
  assert.deepEqual(await session.sync(tokens), { reused: 100, ran: 0, finished: true })
  assert.deepEqual(await session.sync([...tokens, 1, 2]), { reused: 100, ran: 2, finished: true })
  // The rings hold 16 tokens more than a window: so far back is free.
  assert.deepEqual(await session.sync([...tokens.slice(0, 90), 3]), { reused: 90, ran: 1, finished: true })
  assert.deepEqual(await session.sync([...tokens.slice(0, 50), 3]), { reused: 50, ran: reach + 1, finished: true })
  assert.deepEqual(await session.sync([...tokens.slice(0, 8), 3]), { reused: 8, ran: 9, finished: true })
  assert.deepEqual(await session.sync([47 - tokens[0]]), { reused: 0, ran: 1, finished: true })
})

test('a prefix of what is held needs its last token again, for its logits', async () => {
  const tokens = randomTokens(20, 2)
  using session = new Session(model, { contextLength, maxChunk: 16 })
  await session.sync(tokens)
  assert.deepEqual(await session.sync(tokens.slice(0, 15)), { reused: 14, ran: 1, finished: true })
  assert.deepEqual(session.tokens, tokens.slice(0, 15))
  assert.deepEqual(session.logits, await freshLogits(tokens.slice(0, 15)))
})

test('advance tells its progress by chunks', async () => {
  using session = new Session(model, { contextLength, maxChunk: 16 })
  const seen = await collect(session.advance(randomTokens(40, 3)))
  assert.deepEqual(
    seen,
    [0, 16, 32, 40].map(done => ({ reused: 0, done, total: 40 })),
  )
  assert.deepEqual(await collect(session.advance(session.tokens)), [{ reused: 40, done: 0, total: 0 }])
})

test('prefill, steps and chunks of any size give the same logits, bit for bit', async () => {
  const tokens = randomTokens(60, 4)
  const expected = await freshLogits(tokens, 60)
  for (const maxChunk of [1, 2, 3, 4, 5, 6, 7, 13, 59, 64]) {
    assert.deepEqual(await freshLogits(tokens, maxChunk), expected, `chunks of ${maxChunk}`)
  }
  using session = new Session(model, { contextLength, maxChunk: 8 })
  await session.sync(tokens.slice(0, 1))
  for (const token of tokens.slice(1)) assert.equal(await session.step(token), true)
  assert.deepEqual(session.logits, expected)
})

test('the logits tell a wrong window: they change with every token in reach and not beyond', async () => {
  // With windowed layers alone: reach is then all that the last token sees.
  const config: ModelConfig = { ...smallConfig, numHiddenLayers: 1 }
  const windowed = await randomModel(config)
  const logits = async (tokens: readonly number[]) => {
    using session = new Session(windowed, { contextLength, maxChunk: 64 })
    await session.sync(tokens)
    return session.logits!
  }
  const tokens = randomTokens(20, 5)
  const expected = await logits(tokens)
  for (let back = 0; back < 10; back++) {
    const changed = tokens.with(19 - back, (tokens[19 - back] + 1) % vocabSize)
    const same = (await logits(changed)).every((value, i) => value === expected[i])
    assert.equal(same, back >= slidingWindow, `${back} tokens back`)
  }
})

/** What may happen to a session; positions are given as fractions of what there is. */
const fraction = fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true })
const edit = fc.oneof(
  fc.record({ kind: fc.constant('replace' as const), at: fraction, added: fc.integer({ min: 1, max: 40 }) }),
  fc.record({ kind: fc.constant('append' as const), added: fc.integer({ min: 1, max: 30 }) }),
  fc.record({ kind: fc.constant('rewind' as const), at: fraction }),
  fc.record({ kind: fc.constant('step' as const), count: fc.integer({ min: 1, max: 6 }) }),
)
const stop = fc.option(fc.integer({ min: 0, max: 40 }), { freq: 2 })
const marks = fc.array(fraction, { maxLength: 3 })
const edits = fc.array(fc.record({ edit, stop, marks }), { minLength: 1, maxLength: 12 })

/** Σ (window − 1) tokens before the first new one are all that exactness ever needs. */
const mostToRun = (reused: number, length: number) => Math.min(reused, reach) + length - reused

async function checkEdits(steps: EditStep[], maxChunk: number, seed: number, on = model): Promise<void> {
  using session = new Session(on, { contextLength: 1024, maxChunk })
  const random = seededRandom(seed)
  const fresh = (count: number) => Array.from({ length: count }, () => Math.floor(random() * vocabSize))
  /** The last mark that must have been kept: going back there, or less far, runs nothing before it. */
  let newest = 0
  for (const { edit, stop, marks } of steps) {
    const held = session.tokens
    const shouldStop = stop === null ? undefined : stopAt(stop)
    if (edit.kind === 'rewind') session.rewind(Math.floor(edit.at * (held.length + 1)))
    else if (edit.kind === 'step') for (let i = 0; i < edit.count; i++) await session.step(fresh(1)[0], shouldStop)
    else {
      const kept = edit.kind === 'append' ? held.length : Math.floor(edit.at * (held.length + 1))
      const tokens = [...held.slice(0, kept), ...fresh(edit.added)]
      const wanted = marks.map(mark => Math.floor(mark * (tokens.length + 4)))
      const { reused, ran, finished } = await session.sync(tokens, shouldStop, wanted)
      assert.ok(ran <= mostToRun(reused, tokens.length), `${ran} ran for ${reused} reused of ${tokens.length}`)
      if (newest > 0 && newest <= reused) assert.ok(ran <= tokens.length - newest, `${ran} ran behind mark ${newest}`)
      newest = Math.max(0, ...wanted.filter(mark => mark > reused && mark <= session.tokens.length))
      assert.deepEqual(session.tokens, finished ? tokens : tokens.slice(0, session.tokens.length))
      assert.ok(session.tokens.length >= Math.min(reused, kept))
    }
    newest = newest > session.tokens.length ? 0 : newest
    if (session.logits) assert.deepEqual(session.logits, await logitsOf(session.tokens))
  }
  const tokens = [...session.tokens, 7]
  const { ran, reused } = await session.sync(tokens)
  assert.ok(ran <= mostToRun(reused, tokens.length))
  assert.deepEqual(session.logits, await logitsOf(tokens))
}

type EditStep = typeof edits extends fc.Arbitrary<(infer T)[]> ? T : never

async function logitsOf(tokens: readonly number[]): Promise<Float32Array> {
  using session = new Session(model, { contextLength: 1024, maxChunk: 64 })
  await session.sync(tokens)
  return session.logits!
}

test('after any edits, marks, rewinds and interruptions the logits are those of a fresh session, bit for bit', async () => {
  await fc.assert(
    fc.asyncProperty(edits, fc.integer({ min: 1, max: 20 }), fc.nat(), (steps, maxChunk, seed) =>
      checkEdits(steps, maxChunk, seed),
    ),
    { numRuns: 60, seed: 20 }, // session.long.ts runs more
  )
})

test('the same on a device that runs its passes later', async () => {
  const late = await randomModel(smallConfig, { device: new LateDevice() })
  await fc.assert(
    fc.asyncProperty(edits, fc.integer({ min: 1, max: 20 }), fc.nat(), (steps, maxChunk, seed) =>
      checkEdits(steps, maxChunk, seed, late),
    ),
    { numRuns: 20, seed: 21 },
  )
})

test('going back to a mark runs nothing again, be it in the prompt, in one chunk, or among the steps behind it', async () => {
  const tokens = randomTokens(100, 10)
  for (const mark of [1, 30, 48, 49, 64, 99, 100, 103]) {
    for (const maxChunk of [1, 7, 16, 100]) {
      using session = new Session(model, { contextLength, maxChunk })
      await session.sync(tokens, undefined, [mark])
      for (const token of randomTokens(60, 11)) await session.step(token)
      const edited = [...session.tokens.slice(0, mark), 3, 4]
      assert.deepEqual(await session.sync(edited), { reused: mark, ran: 2, finished: true })
      assert.deepEqual(session.logits, await freshLogits(edited))
      // Between mark and end: from the mark on.
      const later = [...session.tokens, ...randomTokens(60, 12)]
      await session.sync(later)
      const between = [...later.slice(0, mark + 7), 5]
      const { ran } = await session.sync(between)
      assert.equal(ran, maxChunk === 100 && mark + 62 - 100 <= mark + 7 ? 1 : 8)
      assert.deepEqual(session.logits, await freshLogits(between))
    }
  }
})

test('marks that were passed before they were asked for count while the windows hold what is seen there', async () => {
  const tokens = randomTokens(60, 13)
  using session = new Session(model, { contextLength, maxChunk: 8 })
  await session.sync(tokens)
  await session.sync(tokens, undefined, [40, 55])
  await session.sync([...tokens, ...randomTokens(60, 14)])
  assert.equal((await session.sync([...tokens.slice(0, 55), 1])).ran, 1)
  assert.equal((await session.sync([...tokens.slice(0, 40), 1])).ran, reach + 1)
})

test('a sync that was stopped has marked what it reached', async () => {
  const tokens = randomTokens(90, 15)
  using session = new Session(model, { contextLength, maxChunk: 8 })
  const { ran } = await session.sync(tokens, stopAt(6 * (numHiddenLayers + 1) + 2), [20, 47, 49])
  assert.equal(ran, 48)
  await session.sync([...tokens.slice(0, 48), ...randomTokens(60, 16)])
  assert.deepEqual(await session.sync([...tokens.slice(0, 47), 1]), { reused: 47, ran: 1, finished: true })
  assert.deepEqual(await session.sync([...tokens.slice(0, 20), 1]), { reused: 20, ran: 1, finished: true })
})

test('one edit at each position up to six windows back, from a long session', async () => {
  const tokens = randomTokens(70, 6)
  for (let back = 1; back <= 6 * slidingWindow; back++) {
    using session = new Session(model, { contextLength, maxChunk: 4 })
    await session.sync(tokens)
    const edited = [...tokens.slice(0, tokens.length - back), 11, 12, 13]
    const { reused, ran } = await session.sync(edited)
    assert.ok(ran <= mostToRun(reused, edited.length), `${back} back: ${ran} ran`)
    assert.deepEqual(session.logits, await freshLogits(edited), `${back} back`)
  }
})

test('a sync stopped before any layer of any chunk keeps the whole chunks, and the next one goes on from there', async () => {
  const tokens = randomTokens(50, 7)
  const expected = await freshLogits(tokens)
  const asked = (numHiddenLayers + 1) * Math.ceil(50 / 8) // in a whole sync
  for (let n = 0; n < asked; n++) {
    using session = new Session(model, { contextLength, maxChunk: 8 })
    const { finished, ran } = await session.sync(tokens, stopAt(n))
    assert.deepEqual([finished, session.logits], [false, undefined])
    assert.equal(ran, Math.floor(n / (numHiddenLayers + 1)) * 8)
    assert.deepEqual(session.tokens, tokens.slice(0, ran))
    assert.deepEqual(await session.sync(tokens), { reused: ran, ran: 50 - ran, finished: true })
    assert.deepEqual(session.logits, expected)
  }
})

test('a rebuild of the windows may be stopped and go on, or be left for another place', async () => {
  const tokens = randomTokens(90, 8)
  const edited = [...tokens.slice(0, 60), 1, 2, 3]
  const asked = (numHiddenLayers + 1) * Math.ceil((reach + 3) / 4)
  for (let n = 0; n < asked; n++) {
    using session = new Session(model, { contextLength, maxChunk: 4 })
    await session.sync(tokens)
    const { reused, ran, finished } = await session.sync(edited, stopAt(n))
    assert.deepEqual([reused, finished], [60, false])
    assert.equal(ran, Math.floor(n / (numHiddenLayers + 1)) * 4)
    const goesOn = await session.sync(edited)
    assert.equal(goesOn.ran, reach + 3 - ran, `stopped at ${n}: what has run does not run again`)
    assert.deepEqual(session.logits, await freshLogits(edited))
  }
  for (const place of [3, 20, 47, 48, 49, 55, 59, 60]) {
    using session = new Session(model, { contextLength, maxChunk: 4 })
    await session.sync(tokens)
    await session.sync(edited, stopAt(2 * (numHiddenLayers + 1) + 2))
    const other = [...tokens.slice(0, place), 4]
    const { ran } = await session.sync(other)
    assert.ok(ran <= mostToRun(place, place + 1))
    assert.deepEqual(session.logits, await freshLogits(other), `left for ${place}`)
  }
})

test('shouldStop may take its time', async () => {
  using session = new Session(model, { contextLength, maxChunk: 8 })
  let asked = 0
  const slowly = async () => {
    await new Promise(resolve => setTimeout(resolve, 1))
    return ++asked > 10
  }
  assert.deepEqual(await session.sync(randomTokens(30, 9), slowly), { reused: 0, ran: 8, finished: false })
  assert.equal(asked, 11)
})

test('an abandoned pass is ended on the device', async () => {
  let open = 0
  class Watching extends ReferenceDevice {
    override begin(): Ops {
      const ops = super.begin()
      open++
      ops.end = () => void open--
      return ops
    }
  }
  using session = new Session(await randomModel(smallConfig, { device: new Watching() }), {
    contextLength,
    maxChunk: 8,
  })
  await session.sync(randomTokens(20, 1), stopAt(3))
  assert.equal(open, 0)
  await session.sync(randomTokens(20, 1))
  assert.equal(open, 0)
})

test('what cannot be asked is refused with the numbers, and the session stays as it is', async () => {
  using session = new Session(model, { contextLength: 10, maxChunk: 8 })
  await session.sync([1, 2, 3])
  const refused = (promise: Promise<unknown>, message: RegExp) =>
    assert.rejects(promise, { name: 'RequestError', param: 'tokens', message })
  await refused(session.sync([]), /at least one/)
  await refused(session.sync([1, vocabSize]), /tokens\[1\] is 48; token ids run from 0 to 47/)
  await refused(session.sync([-1]), /tokens\[0\] is -1/)
  await refused(session.sync([0.5]), /tokens\[0\] is 0\.5/)
  await refused(session.sync(randomTokens(11, 1)), /11 tokens do not fit the context of 10/)
  assert.throws(() => session.rewind(4), RangeError)
  assert.throws(() => session.rewind(-1), RangeError)
  assert.throws(() => session.rewind(0.5), RangeError)
  assert.deepEqual(session.tokens, [1, 2, 3])
  for (let i = 4; i <= 10; i++) await session.step(i)
  await refused(session.step(11), /11 tokens do not fit the context of 10/)
  assert.deepEqual(session.logits, await freshLogits([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]))
})

test('rewinding alone forgets the logits and runs nothing', async () => {
  using session = new Session(model, { contextLength, maxChunk: 8 })
  await session.sync(randomTokens(30, 1))
  session.rewind(30)
  assert.ok(session.logits)
  session.rewind(12)
  assert.deepEqual([session.logits, session.tokens.length], [undefined, 12])
  assert.equal(await session.step(3), true)
  assert.deepEqual(session.logits, await freshLogits([...randomTokens(30, 1).slice(0, 12), 3]))
})
