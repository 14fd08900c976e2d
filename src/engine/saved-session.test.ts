import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { RequestError } from '../base/errors.ts'
import { seededRandom } from '../base/random.ts'
import { sealBytes } from '../base/sealed.ts'
import { createSealed, openSealed } from '../base/sealed-file.node.ts'
import { CpuDevice } from '../device/cpu.node.ts'
import { loadNative } from '../device/native.node.ts'
import { ReferenceDevice } from '../device/reference.ts'
import type { Device } from '../kernels/ops.ts'
import type { ModelConfig } from '../model/config.ts'
import type { Transformer } from '../model/transformer.ts'
import type { GenerateRequest, RestoreEvent } from './engine.ts'
import { LocalEngine, type LocalEngineOptions } from './local-engine.ts'
import { loadSession, readSaved, type SessionFiles, saveSession } from './saved-session.ts'
import { Session } from './session.ts'
import { collect, LateDevice, randomModel, smallConfig } from './testing.ts'

const folder = mkdtempSync(join(tmpdir(), 'tutti-saved-'))
after(() => rmSync(folder, { recursive: true, force: true }))
const binding = { model: 'random', weights: 'abc', cache: 'any' }
const native = loadNative()
const skip = typeof native === 'string' ? `no native kernels: ${native}` : false

async function save(session: Session, path: string): Promise<void> {
  const file = await createSealed(path)
  await saveSession(session, { binding, note: '' }, file)
  await file.finish()
}

async function load(model: Transformer, path: string, maxChunk: number): Promise<Session> {
  const file = await openSealed(path)
  const session = new Session(model, { contextLength: 8000, maxChunk })
  await loadSession(session, await readSaved(file, { vocabSize: model.config.vocabSize, contextLength: 8000 }), file)
  assert.equal(file.bytesLeft, 0)
  await file.close()
  return session
}

interface RoundTrip {
  config: ModelConfig
  device: Device
  maxChunk: number
  /** Tokens that a session holds at most, about. */
  most: number
}

/** A session after random edits, marks and forks comes back from a file as it was, also where chunks are of other sizes. */
async function roundTrip({ config, device, maxChunk, most }: RoundTrip, seed: number): Promise<void> {
  const model = await randomModel(config, { device })
  const random = seededRandom(seed)
  const below = (n: number) => Math.floor(random() * n)
  const some = (count: number) => Array.from({ length: count }, () => below(config.vocabSize))
  let session = new Session(model, { contextLength: 8000, maxChunk })
  for (let edit = 0; edit < 4; edit++) {
    const kept = session.tokens.slice(0, session.tokens.length - below(edit * 3))
    const tokens = [...kept, ...some(1 + below(most / 4))]
    await session.sync(tokens, undefined, [below(tokens.length), tokens.length - 1, tokens.length])
    if (random() < 0.5) continue
    const fork = session.fork(session.tokens.length - below(3))
    await session.sync([...session.tokens, ...some(3)]) // both write behind what they share
    session[Symbol.dispose]()
    session = fork
  }
  session.rest()
  const path = join(folder, `${seed}.session`)
  await save(session, path)
  const bytes = readFileSync(path)
  for (const other of [maxChunk, 1, 2, 200]) {
    const where = `seed ${seed}, chunks of ${maxChunk}, then ${other}`
    const loaded = await load(model, path, other)
    assert.deepEqual(loaded.tokens, session.tokens, where)
    if (other > 1) {
      assert.deepEqual(loaded.outline, session.outline, where)
      await save(loaded, `${path}.again`)
      assert.ok(readFileSync(`${path}.again`).equals(bytes), `${where}: the same bytes`)
    }
    for (const { position } of session.outline.marks) assert.equal(loaded.cost(position), 0, where)
    if (other === maxChunk) {
      const fork = session.fork(session.tokens.length)
      const more = [...session.tokens, ...some(70)]
      const [a, b] = [await fork.sync(more), await loaded.sync(more)]
      assert.deepEqual(b, a, `${where}: the same tokens run`)
      assert.deepEqual(loaded.logits, fork.logits, `${where}: bit for bit`)
      fork[Symbol.dispose]()
    }
    loaded[Symbol.dispose]()
  }
  session[Symbol.dispose]()
  assert.equal(device.heldCacheBytes, 0, `seed ${seed}: nothing leaks`)
}

for (const Device of [ReferenceDevice, LateDevice]) {
  test(`a session comes back from its file bit for bit, whatever the chunks (${Device.name})`, async () => {
    for (let seed = 0; seed < 16; seed++) {
      await roundTrip({ config: smallConfig, device: new Device(), maxChunk: [1, 2, 7, 40][seed % 4], most: 150 }, seed)
    }
  })
}

const paged = { ...smallConfig, headDim: 32, slidingWindow: 130, maxPositionEmbeddings: 8192 }
const odd = { ...paged, headDim: 38, numKeyValueHeads: 1 } // 8-bit codes in fours and scales for 32 do not fill it
for (const [cache, config] of [
  ['bf16', paged],
  ['q8', paged],
  ['bf16', odd],
  ['q8', odd],
] as const) {
  test(`the same on the cpu device (${cache}, heads of ${config.headDim})`, { skip }, async () => {
    const device = new CpuDevice(native as Exclude<typeof native, string>, { cache, precision: 'exact', threads: 2 })
    for (let seed = 0; seed < 5; seed++) {
      await roundTrip({ config, device, maxChunk: [1, 33, 64, 200][seed % 4], most: 700 }, 100 + seed)
    }
    device.close()
  })
}

/** An engine that saves; `weights` and `cacheFormat` are what binds its files. */
async function openEngine({
  weights = 'abc',
  cacheFormat = 'any',
  model = 'random',
  on: device = new ReferenceDevice(),
  ...options
}: Partial<LocalEngineOptions & { weights: string; cacheFormat: string; on: ReferenceDevice }> = {}) {
  const files: SessionFiles = { weights: async () => weights, create: createSealed, open: openSealed }
  const info = { model, device: 'reference', contextLength: 250, maxChunk: 8, saving: { files, cacheFormat } }
  return { device, engine: new LocalEngine(await randomModel(smallConfig, { device }), { ...info, ...options }) }
}

const randomTokens = (length: number, seed = 1) => {
  const random = seededRandom(seed)
  return Array.from({ length }, () => Math.floor(random() * smallConfig.vocabSize))
}

async function answer(engine: LocalEngine, request: Pick<GenerateRequest, 'tokens' | 'marks' | 'owner'>) {
  const events = await collect(
    engine.generate({ maxTokens: 5, sampling: { temperature: 0 }, stopTokens: [], ...request }),
  )
  const end = events.at(-1)!
  assert.ok(end.type === 'end')
  return { tokens: events.flatMap(event => (event.type === 'token' ? [event.token] : [])), usage: end.usage }
}

async function lastOf<T>(events: AsyncIterable<T>): Promise<T> {
  return (await collect(events)).at(-1)!
}

test('what an engine has computed is not computed again after a restart, and only for the owner who restores it', async () => {
  const path = join(folder, 'restart.session')
  const tokens = randomTokens(100)
  const first = await openEngine()
  const expected = await answer(first.engine, { tokens: [...tokens, 1, 2, 3] })
  assert.deepEqual(await lastOf(first.engine.saveSession({ path, tokens, owner: 'ann' })), {
    type: 'end',
    tokens: 100,
    bytes: statSync(path).size,
  })
  assert.equal(statSync(path).mode & 0o777, 0o600)
  await first.engine.close()
  assert.equal(first.device.heldCacheBytes, 0)

  const { device, engine } = await openEngine({ maxChunk: 16 })
  assert.deepEqual(await lastOf(engine.restoreSession({ path, owner: 'ann' })), { type: 'end', tokens })
  const bob = await answer(engine, { tokens: [...tokens, 1, 2, 3], owner: 'bob' })
  assert.equal(bob.usage.cachedTokens, 0)
  const before = engine.counts.prefilled
  const ann = await answer(engine, { tokens: [...tokens, 1, 2, 3], owner: 'ann' })
  assert.deepEqual([ann.tokens, ann.usage.cachedTokens], [expected.tokens, 100])
  assert.equal(engine.counts.prefilled - before, 3)
  await engine.close()
  assert.equal(device.heldCacheBytes, 0)
})

test('saving runs only what is missing, reports what it does, and leaves running requests alone', async () => {
  const path = join(folder, 'beside.session')
  const { engine } = await openEngine()
  const tokens = randomTokens(60)
  await answer(engine, { tokens: tokens.slice(0, 40), marks: [40], owner: 'ann' })
  const other = answer(engine, { tokens: randomTokens(150, 2), owner: 'bob' })
  const ran = engine.counts.prefilled
  const events = await collect(engine.saveSession({ path, tokens, owner: 'ann', marks: [50] }))
  const kinds = new Set(events.map(event => event.type))
  assert.deepEqual([...kinds], ['prefill', 'copied', 'end'])
  assert.deepEqual(events[0], { type: 'prefill', cached: 40, done: 0, total: 20 })
  const copied = events.filter(event => event.type === 'copied')
  assert.ok(copied.every(({ done }, i) => done >= (copied[i - 1]?.done ?? 0)))
  assert.deepEqual(copied.at(-1), { type: 'copied', done: statSync(path).size, total: statSync(path).size })
  const alone = await openEngine()
  assert.deepEqual((await other).tokens, (await answer(alone.engine, { tokens: randomTokens(150, 2) })).tokens)
  assert.ok(engine.counts.prefilled - ran <= 20 + 150)
  const mark = await answer(engine, { tokens: [...tokens.slice(0, 50), 7], owner: 'ann' })
  assert.equal(mark.usage.cachedTokens, 50)
  await engine.close()
})

test('a save that is cancelled or fails leaves the path as it was, and nothing beside it', async () => {
  const inner = mkdtempSync(join(folder, 'inner-'))
  const path = join(inner, 'a.session')
  writeFileSync(path, 'old')
  const { device, engine } = await openEngine()
  const tokens = randomTokens(200)
  for (const stopAt of ['prefill', 'copied'] as const) {
    const controller = new AbortController()
    const saving = (async () => {
      for await (const event of engine.saveSession({ path, tokens, owner: 'ann' }, { signal: controller.signal })) {
        if (event.type === stopAt && event.done > 20) controller.abort(new Error('enough'))
      }
    })()
    await assert.rejects(saving, /enough/)
  }
  for await (const event of engine.saveSession({ path, tokens, owner: 'ann' })) if (event.type === 'copied') break
  const closing = collect(engine.saveSession({ path, tokens: [...tokens, 1], owner: 'ann' }))
  closing.catch(() => {})
  await engine.close()
  await assert.rejects(closing, { name: 'DeviceError', message: 'the model was closed: load it again' })
  assert.equal(device.heldCacheBytes, 0)
  assert.deepEqual(readdirSync(inner), ['a.session'])
  assert.equal(readFileSync(path, 'utf8'), 'old')
})

test('errors name the path, and an engine without files says so', async () => {
  const { engine } = await openEngine()
  const tokens = randomTokens(5)
  const missing = join(folder, 'no-folder', 'a.session')
  const cases: [AsyncIterable<unknown>, object][] = [
    [
      engine.saveSession({ path: missing, tokens, owner: 'ann' }),
      { name: 'RequestError', message: /no-folder.* does not exist/ },
    ],
    [engine.saveSession({ path: folder, tokens, owner: 'ann' }), { name: 'RequestError', message: /is a folder/ }],
    [engine.saveSession({ path: missing, tokens: [99], owner: 'ann' }), { name: 'RequestError', param: 'tokens' }],
    [
      engine.saveSession({ path: missing, tokens, note: 1 as unknown as string }),
      { name: 'RequestError', param: 'note' },
    ],
    [engine.restoreSession({ path: 5 as unknown as string, owner: 'ann' }), { name: 'RequestError', param: 'path' }],
    [engine.restoreSession({ path: missing, owner: 'ann' }), { name: 'RequestError', param: 'path' }],
    [engine.restoreSession({ path: folder, owner: 'ann' }), { name: 'RequestError', message: /is no file/ }],
  ]
  for (const [events, expected] of cases) await assert.rejects(collect(events), expected)
  await engine.close()
  await assert.rejects(collect(engine.saveSession({ path: join(folder, 'late'), tokens, owner: 'ann' })), {
    name: 'DeviceError',
  })
  const plain = new LocalEngine(await randomModel(), { model: 'random', device: 'reference', contextLength: 100 })
  await assert.rejects(collect(plain.restoreSession({ path: missing, owner: 'ann' })), /this engine has no files/)
})

test('where there is no room beside what runs the tokens come back alone, and idle timelines make room', async () => {
  const path = join(folder, 'room.session')
  const first = await openEngine()
  const tokens = randomTokens(100)
  await collect(first.engine.saveSession({ path, tokens, owner: 'ann' }))
  const cacheBytes = first.device.heldCacheBytes * 2.5 // for two such timelines and what a third takes while it runs
  await first.engine.close()

  let gate = Promise.withResolvers<void>()
  gate.resolve()
  const { device, engine } = await openEngine({ cacheBytes, on: new LateDevice(() => gate.promise) })
  for (let seed = 2; seed < 6; seed++) {
    await answer(engine, { tokens: randomTokens(100, seed), owner: 'bob' })
    assert.deepEqual(await lastOf(engine.restoreSession({ path, owner: 'ann' })), { type: 'end', tokens })
    assert.ok(device.heldCacheBytes <= cacheBytes)
  }
  gate = Promise.withResolvers()
  const running = answer(engine, { tokens: randomTokens(200, 7), owner: 'bob' })
  const end = (await lastOf(engine.restoreSession({ path, owner: 'ann' }))) as Extract<RestoreEvent, { type: 'end' }>
  assert.deepEqual(end.tokens, tokens)
  assert.match(
    end.refused!,
    /there is no room for what .* holds beside what is running: its 100 tokens have to run again/,
  )
  gate.resolve()
  await running
  await engine.close()
})

// --- files that are not what was saved

/** Sections of a file, with their seals. */
function sections(file: Buffer): Buffer[] {
  const digest = createHash('sha256')
  const found: Buffer[] = []
  let begin = 0
  for (let at = 0; at + sealBytes <= file.length; at++) {
    if (
      at > begin &&
      digest
        .copy()
        .digest()
        .equals(file.subarray(at, at + sealBytes))
    ) {
      digest.update(file.subarray(at, at + sealBytes))
      found.push(file.subarray(begin, at + sealBytes))
      begin = at + sealBytes
      at = begin - 1
    } else digest.update(file.subarray(at, at + 1))
  }
  return found
}

/** The same with right seals: what nobody but a forger makes. */
function sealed(contents: readonly Buffer[]): Buffer {
  const digest = createHash('sha256')
  const pieces = contents.flatMap(content => {
    const seal = digest.update(content).copy().digest()
    digest.update(seal)
    return [content, seal]
  })
  return Buffer.concat(pieces)
}

function headerSection(change: object, header: Record<string, unknown>): Buffer {
  const text = Buffer.from(JSON.stringify({ ...header, ...change }))
  const length = Buffer.alloc(4)
  length.writeUInt32LE(text.length)
  return Buffer.concat([Buffer.from('tutti session 1\n'), length, text])
}

test('of 1,000 corrupted files none is accepted, nothing of them stays, and memory for them is bounded', async t => {
  const path = join(folder, 'whole.session')
  const { device, engine } = await openEngine()
  const tokens = randomTokens(90)
  await collect(engine.saveSession({ path, tokens, owner: 'ann', marks: [30], note: 'Übung' }))
  await engine.close()
  const whole = readFileSync(path)
  const parts = sections(whole)
  const contents = parts.map(part => part.subarray(0, -sealBytes))
  assert.equal(Buffer.concat(parts).length, whole.length)
  assert.ok(sealed(contents).equals(whole))
  const header = JSON.parse(contents[0].subarray(20).toString())
  const random = seededRandom(1)
  const below = (n: number) => Math.floor(random() * n)

  const forged = (change: object) => sealed([headerSection(change, header), ...contents.slice(1)])
  const corruptions: Record<string, () => Buffer> = {
    flip() {
      const file = Buffer.from(whole)
      file[below(file.length)] ^= 1 << below(8)
      return file
    },
    flipInHeader() {
      const file = Buffer.from(whole)
      file[below(parts[0].length)] ^= 1 << below(8)
      return file
    },
    cut: () => whole.subarray(0, below(whole.length)),
    cutAtSection: () => Buffer.concat(parts.slice(0, below(parts.length))),
    longer: () => Buffer.concat([whole, Buffer.alloc(1 + below(100), below(256))]),
    zeros() {
      const file = Buffer.from(whole)
      const begin = below(file.length)
      return file.fill(0, begin, Math.min(file.length, begin + 1 + below(4096)))
    },
    moved() {
      const file = Buffer.from(whole)
      const [to, from] = [below(file.length - 600), below(file.length - 600)]
      file.copyWithin(to, from, from + 1 + below(600))
      return file
    },
    swapped() {
      const [a, b] = [1 + below(parts.length - 1), 1 + below(parts.length - 1)]
      return Buffer.concat(parts.with(a, parts[b]).with(b, parts[a]))
    },
    ofAnother: () => {
      const other = Buffer.from(parts[below(parts.length)])
      other[0] ^= 1
      return Buffer.concat(parts.with(below(parts.length), sealed([other.subarray(0, -sealBytes)])))
    },
    version: () => Buffer.concat([Buffer.from(`tutti session ${2 + below(8)}\n`), whole.subarray(16)]),
    noise: () => Buffer.from(Array.from({ length: below(3000) }, () => below(256))),
    bomb: () => forged({ tokens: [1e3, 1e6, 2 ** 31, 2 ** 52, 1e300, -1, 0.5, '90', null][below(9)] }),
    marks: () =>
      forged({
        marks: [[[0, 0]], [[91, 91]], [[3, 9]], [[9, 3]], 5, [5], [[1, 1, 1]], Array(9).fill([5, 5])][below(8)],
      }),
    note: () => forged({ note: [5, 7, 1e6, 2 ** 40, -1, 'x'][below(6)] }),
    otherModel: () => forged({ model: 'gpt-oss-120b' }),
    otherWeights: () => forged({ weights: 'abd' }),
    otherCache: () => forged({ cache: 'other' }),
    otherLength: () => forged({ tokens: 89, marks: [] }),
    noHeader: () => sealed([Buffer.from('tutti session 1\n\x02\0\0\0{}'), ...contents.slice(1)]),
    noJson: () => sealed([Buffer.from('tutti session 1\n\x03\0\0\0{"x'), ...contents.slice(1)]),
    nullHeader: () => sealed([Buffer.from('tutti session 1\n\x04\0\0\0null'), ...contents.slice(1)]),
    token: () => sealed([contents[0], Buffer.from(contents[1]).fill(below(255) + 1, 4, 8), ...contents.slice(2)]),
  }
  const names = Object.keys(corruptions)
  const restored = await openEngine()
  const bad = join(folder, 'bad.session')
  const outcomes: Record<string, number> = {}
  let most = 0
  for (let n = 0; n < 1000; ) {
    const name = names[n % names.length]
    const file = corruptions[name]()
    if (file.equals(whole)) continue
    n++
    writeFileSync(bad, file)
    const outcome = await lastOf(restored.engine.restoreSession({ path: bad, owner: 'ann' })).catch(error => error)
    if (outcome instanceof RequestError) {
      assert.ok(outcome.message.startsWith(bad), `${name}: ${outcome.message}`)
    } else {
      assert.equal(outcome.type, 'end', `${name}: ${outcome}`)
      assert.ok(outcome.refused, `${name} was accepted`)
      assert.deepEqual(outcome.tokens, tokens.slice(0, outcome.tokens.length), name)
    }
    outcomes[name] = (outcomes[name] ?? 0) + 1
    assert.equal(restored.device.heldCacheBytes, 0, name)
    most = Math.max(most, process.memoryUsage().arrayBuffers)
  }
  const { usage } = await answer(restored.engine, { tokens, owner: 'ann' })
  assert.equal(usage.cachedTokens, 0)
  assert.ok(most < 2 ** 28, `${most} bytes`)
  t.diagnostic(`${Object.keys(outcomes).length} kinds; ${Math.round(most / 2 ** 20)} MiB at most`)
  assert.deepEqual(await lastOf(restored.engine.restoreSession({ path, owner: 'ann' })), {
    type: 'end',
    tokens,
    note: 'Übung',
  })
  await restored.engine.close()
  assert.equal(device.heldCacheBytes, 0)
})

test('the tokens of a file whose keys and values are foreign or damaged can still be told', async () => {
  const path = join(folder, 'foreign.session')
  const { engine } = await openEngine()
  const tokens = randomTokens(40)
  await collect(engine.saveSession({ path, tokens, owner: 'ann' }))
  const others: [Parameters<typeof openEngine>[0], RegExp][] = [
    [{ model: 'gpt-oss-20b' }, /was saved with random, and this is gpt-oss-20b/],
    [{ weights: 'abd' }, /other weights of random/],
    [{ cacheFormat: 'cpu 1, q8, fast' }, /of another kind \(any\) than this device keeps \(cpu 1, q8, fast\)/],
  ]
  for (const [options, expected] of others) {
    const other = await openEngine(options)
    const end = (await lastOf(other.engine.restoreSession({ path, owner: 'ann' }))) as Extract<
      RestoreEvent,
      { type: 'end' }
    >
    assert.deepEqual(end.tokens, tokens)
    assert.match(end.refused!, expected)
    assert.match(end.refused!, /: its 40 tokens have to run again$/)
  }
  const short = await openEngine({ contextLength: 39 })
  await assert.rejects(
    collect(short.engine.restoreSession({ path, owner: 'ann' })),
    /holds 40 tokens, and the context 39/,
  )
})
