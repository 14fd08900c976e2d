import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../base/random.ts'
import type { Checkpoint } from '../checkpoint/checkpoint.ts'
import { ReferenceDevice } from '../device/reference.ts'
import type { AttentionShape, Ops, Piece } from '../kernels/ops.ts'
import type { Tensor } from '../kernels/tensor.ts'
import type { ShouldStop } from '../model/stop.ts'
import { type Chunk, Transformer } from '../model/transformer.ts'
import { loadWeights } from '../model/weights.ts'
import { LocalEngine } from './local-engine.ts'
import { Sampler } from './sampler.ts'
import { Session } from './session.ts'
import { collect, randomCheckpoint, randomModel, smallConfig } from './testing.ts'

const { vocabSize, numHiddenLayers } = smallConfig
const randomTokens = (length: number, seed: number) => {
  const random = seededRandom(seed)
  return Array.from({ length }, () => Math.floor(random() * vocabSize))
}

/** A device that tells what is asked of it. */
class WatchedDevice extends ReferenceDevice {
  readonly calls: { op: string; args: unknown[]; result: unknown }[] = []
  override begin(): Ops {
    const { calls } = this
    return new Proxy(super.begin(), {
      get:
        (ops, op: keyof Ops) =>
        (...args: never[]) => {
          const result = (ops[op] as (...args: never[]) => unknown).apply(ops, args)
          calls.push({ op, args, result })
          return result
        },
    })
  }
}

async function run(model: Transformer, batch: Chunk[], shouldStop?: ShouldStop): Promise<Float32Array> {
  const logits = await model.forward(batch, shouldStop)
  assert.ok(logits)
  return logits
}

/** Logits after each of the tokens, one sequence alone in one pass. */
async function lone(model: Transformer, tokens: readonly number[]): Promise<Float32Array> {
  const cache = model.newCache(tokens.length)
  return run(model, [{ cache, tokens, start: 0, logits: 'all' }])
}

const rows = (logits: Float32Array, from: number, to: number) => logits.subarray(from * vocabSize, to * vocabSize)

test('each layer asks for its matrices once, however many sequences there are', async () => {
  const device = new WatchedDevice()
  const model = await randomModel(smallConfig, { device })
  const batch = [5, 1, 9].map((length, i): Chunk => {
    return { cache: model.newCache(16), tokens: randomTokens(length, i), start: 0, logits: 'last' }
  })
  await run(model, batch)
  const count = (op: string) => device.calls.filter(call => call.op === op).length
  assert.equal(count('linear'), 3 * numHiddenLayers + 1) // qkv, out, router; unembedding
  assert.equal(count('experts'), numHiddenLayers)
  assert.equal(count('attention'), numHiddenLayers)
  assert.equal(count('embedding'), 1)
  assert.equal(count('end'), 1)
})

test('sequences in one batch get the logits that each gets alone, bit for bit', async () => {
  const model = await randomModel()
  const texts = [30, 7, 21, 1].map((length, i) => randomTokens(length, i))
  const caches = texts.map(() => model.newCache(12))
  const random = seededRandom(4)
  const fed = texts.map(() => 0)
  const got = texts.map((): number[] => [])
  while (fed.some((at, i) => at < texts[i].length)) {
    const batch: Chunk[] = []
    const members: number[] = []
    for (const [i, tokens] of texts.entries()) {
      const count = Math.min(Math.floor(random() * 13), tokens.length - fed[i]) // none, one token or several
      if (count === 0) continue
      batch.push({ cache: caches[i], tokens: tokens.slice(fed[i], fed[i] + count), start: fed[i], logits: 'all' })
      members.push(i)
      fed[i] += count
    }
    const logits = await run(model, batch)
    let row = 0
    for (const [n, { tokens }] of batch.entries()) got[members[n]].push(...rows(logits, row, (row += tokens.length)))
  }
  for (const [i, tokens] of texts.entries()) {
    assert.deepEqual(Float32Array.from(got[i]), await lone(model, tokens), `sequence ${i}`)
  }
})

test('each sequence says which logits it wants', async () => {
  const model = await randomModel()
  const wanted = ['last', 'none', 'all', 'last'] as const
  const batch = wanted.map((logits, i): Chunk => {
    return { cache: model.newCache(8), tokens: randomTokens(4 + i, i), start: 0, logits }
  })
  const alone = await Promise.all(batch.map(({ tokens }) => lone(model, tokens)))
  const got = await run(model, batch)
  const expected = [rows(alone[0], 3, 4), rows(alone[2], 0, 6), rows(alone[3], 6, 7)]
  assert.deepEqual(got, Float32Array.from(expected.flatMap(part => [...part])))
  assert.equal((await run(model, [{ ...batch[1], start: 5, logits: 'none' }])).length, 0)
})

test('passes that take turns between layers do not disturb each other', async () => {
  const model = await randomModel()
  const random = seededRandom(8)
  const texts = [19, 11, 14].map((length, i) => randomTokens(length, 20 + i))
  const order: number[] = []
  const passes = texts.map((tokens, i) =>
    run(model, [{ cache: model.newCache(32), tokens, start: 0, logits: 'all' }], async () => {
      order.push(i)
      for (let turns = random() * 9; turns > 0; turns--) await Promise.resolve()
      return false
    }),
  )
  const results = await Promise.all(passes)
  assert.match(order.join(''), /0.*1.*0.*2.*0/)
  for (const [i, tokens] of texts.entries()) assert.deepEqual(results[i], await lone(model, tokens))
})

test('experts in another order, their router rows with them, change nothing', async () => {
  const expected = await lone(await randomModel(), randomTokens(40, 3))
  for (const order of [
    [3, 2, 1, 0],
    [1, 2, 3, 0],
    [0, 2, 1, 3],
  ]) {
    const device = new ReferenceDevice()
    const weights = await loadWeights(device, withExpertsAs(order, randomCheckpoint(smallConfig)), smallConfig)
    const permuted = new Transformer(device, smallConfig, weights)
    assert.deepEqual(await lone(permuted, randomTokens(40, 3)), expected)
  }
})

/** The same checkpoint with the experts in another order: the first dimension of all their tensors and of the router's. */
function withExpertsAs(order: readonly number[], checkpoint: Checkpoint): Checkpoint {
  const tensors = new Map(checkpoint.tensors)
  for (const [name, tensor] of tensors) {
    if (!/\.mlp\.(gate|mlp1|mlp2)/.test(name)) continue
    const size = tensor.byteLength / order.length
    const read = async () => Buffer.concat(await Promise.all(order.map(e => tensor.read(e * size, (e + 1) * size))))
    tensors.set(name, { ...tensor, read })
  }
  return { ...checkpoint, tensors }
}

test('windows of 128 see 128 tokens: at 127, 128 and 129 and after a rebuild, attention is the plain formula', async () => {
  const config = { ...smallConfig, numHiddenLayers: 2, slidingWindow: 128 }
  const device = new WatchedDevice()
  const model = await randomModel(config, { device })
  const tokens = randomTokens(300, 12)
  const feeds: [name: string, run: (session: Session) => Promise<unknown>, from: number][] = [
    [
      'one by one',
      async session => {
        await session.sync(tokens.slice(0, 120))
        for (const token of tokens.slice(120, 135)) await session.step(token)
      },
      120,
    ],
    ['in one chunk', session => session.sync(tokens.slice(0, 200)), 120],
    [
      'after a rebuild',
      async session => {
        await session.sync(tokens)
        device.calls.length = 0 // the rebuild runs from 200 - 127 on; its own first tokens do not see their windows
        await session.sync([...tokens.slice(0, 200), 1, 2, 3])
      },
      200,
    ],
  ]
  for (const [name, run, from] of feeds) {
    using session = new Session(model, { contextLength: 512, maxChunk: 32 })
    const whole = new WatchedDevice()
    device.calls.length = 0
    await run(session)
    const again = await randomModel(config, { device: whole })
    await lone(again, session.tokens)
    for (const layer of [0, 1]) {
      const { qkv, sinks, shape } = attentionOf(whole, layer)
      const got = attentionOf(device, layer).outputs
      for (let position = from; position < session.tokens.length; position++) {
        const right = plainAttention(qkv, sinks, position, shape)
        const worst = Math.max(...right.map((value, i) => Math.abs(value - got.get(position)![i])))
        assert.ok(worst < 1e-6, `${name}, layer ${layer}, position ${position}: off by ${worst}`) // float32's rounding
      }
    }
  }
})

const numbers = (tensor: unknown) => (tensor as Tensor & { data: Float32Array }).data

/** What one layer's attention was given and gave, by position. Every pass has one piece. */
function attentionOf({ calls }: WatchedDevice, layer: number) {
  const qkv = new Map<number, Float32Array>()
  const outputs = new Map<number, Float32Array>()
  const asked = calls.filter(call => call.op === 'attention').filter((_, i) => i % 2 === layer)
  for (const { args, result } of asked) {
    const [{ start, count }] = args[2] as Piece[]
    for (const [values, into] of [
      [numbers(args[0]), qkv],
      [numbers(result), outputs],
    ] as const) {
      const width = values.length / count
      for (let n = 0; n < count; n++) into.set(start + n, values.slice(n * width, (n + 1) * width))
    }
  }
  return { qkv, outputs, sinks: numbers(asked[0].args[1]), shape: asked[0].args[4] as AttentionShape }
}

/** softmax over the scores in the window and the sink, times the values. */
function plainAttention(
  qkv: Map<number, Float32Array>,
  sinks: Float32Array,
  position: number,
  { numAttentionHeads, numKeyValueHeads, headDim, window }: AttentionShape,
): number[] {
  const part = (row: number, first: number) => qkv.get(row)!.subarray(first * headDim, (first + 1) * headDim)
  const seen = [...qkv.keys()].filter(p => p <= position && p > position - window)
  return Array.from({ length: numAttentionHeads }, (_, head) => {
    const keyHead = Math.floor(head / (numAttentionHeads / numKeyValueHeads))
    const query = part(position, head)
    const weights = seen.map(p => {
      const key = part(p, numAttentionHeads + keyHead)
      return Math.exp(key.reduce((sum, value, i) => sum + value * query[i], 0) / Math.sqrt(headDim))
    })
    const total = weights.reduce((a, b) => a + b, Math.exp(sinks[head]))
    return Array.from({ length: headDim }, (_, i) => {
      const values = seen.map((p, n) => weights[n] * part(p, numAttentionHeads + numKeyValueHeads + keyHead)[i])
      return values.reduce((a, b) => a + b, 0) / total
    })
  }).flat()
}

test('the same seed gives the same tokens in a batch as alone', async () => {
  const model = await randomModel()
  const prompts = [randomTokens(20, 1), randomTokens(9, 2), randomTokens(33, 3)]
  const alone = await Promise.all(
    prompts.map((prompt, seed) => generated(new LocalEngine(model, limits), prompt, seed)),
  )
  const samplers = prompts.map((_, seed) => new Sampler({ seed }, vocabSize))
  const sequences = prompts.map(tokens => ({ cache: model.newCache(40), tokens, start: 0 }))
  const together = prompts.map((): number[] => [])
  for (let i = 0; i < 25; i++) {
    const logits = await run(
      model,
      sequences.map(sequence => ({ ...sequence, logits: 'last' }) as const),
    )
    for (const [s, sequence] of sequences.entries()) {
      const { token } = samplers[s].sample(rows(logits, s, s + 1))
      together[s].push(token)
      sequence.start += sequence.tokens.length
      sequence.tokens = [token]
    }
  }
  assert.deepEqual(together, alone)
})

test('the same seed gives the same tokens whatever the chunks and whatever is reused', async () => {
  const model = await randomModel()
  const prompt = randomTokens(50, 5)
  const expected = await generated(new LocalEngine(model, limits), prompt, 6)
  assert.notDeepEqual(await generated(new LocalEngine(model, limits), prompt, 7), expected)
  for (const maxChunk of [1, 3, 16, 64]) {
    const engine = new LocalEngine(model, { ...limits, maxChunk })
    for (const before of [
      [],
      randomTokens(70, 9),
      prompt.slice(0, 30),
      [...prompt.slice(0, 20), ...randomTokens(60, 1)],
    ]) {
      if (before.length > 0) await generated(engine, before, 1, 'kept')
      assert.deepEqual(await generated(engine, prompt, 6, 'kept'), expected)
    }
  }
})

const limits = { model: 'random', device: 'reference', contextLength: 256 }

async function generated(engine: LocalEngine, tokens: number[], seed: number, owner?: string): Promise<number[]> {
  const events = engine.generate({ tokens, maxTokens: 25, sampling: { seed }, stopTokens: [], owner })
  return (await collect(events)).flatMap(event => (event.type === 'token' ? [event.token] : []))
}
