import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { CheckpointError } from '../base/errors.ts'
import { loadTokenizer } from './load.ts'
import { readGoldens, sampleTokenizerJson } from './testing.ts'
import { type TokenizerJson, tokenizerFromJson } from './tokenizer-json.ts'

let sample: TokenizerJson
before(async () => {
  sample = sampleTokenizerJson(await loadTokenizer())
})

test('a sample has as many merges as the file of gpt-oss', () => assert.equal(sample.model.merges.length, 446189))

test('the ids of a tokenizer.json are those of the built-in vocabulary; a merge is a pair or a string', () => {
  const merges = sample.model.merges.map((merge, at) => (at % 2 ? merge : (merge as [string, string]).join(' ')))
  const tokenizer = tokenizerFromJson(JSON.stringify({ ...sample, model: { ...sample.model, merges } }))
  for (const { text, ids } of readGoldens().encode) assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text))
  for (const { ids, text } of readGoldens().decode) if (text !== undefined) assert.equal(tokenizer.decode(ids), text)
  assert.equal(tokenizer.specialId('<|padding|>'), 200017)
  assert.equal(tokenizer.specialName(200017), '<|reserved_200017|>')
  assert.deepEqual(tokenizer.encode('<|padding|>', { allowedSpecial: ['<|padding|>'] }), [200017])
})

const wrong: [name: string, make: () => string | TokenizerJson, message: RegExp][] = [
  ['not JSON', () => '{"model"', /is not JSON/],
  ['null', () => 'null', /has no "model"/],
  ['no model', () => '{}', /has no "model"/],
  [
    'a unigram model',
    () => '{"model":{"type":"Unigram","vocab":[["a",0]]}}',
    /has no "model" with "vocab" and "merges"/,
  ],
  ['another pattern', () => ({ ...sample, pre_tokenizer: { type: 'ByteLevel' } }), /another pattern than o200k/],
  ['no pattern', () => ({ ...sample, pre_tokenizer: null }), /another pattern than o200k/],
  ['a token missing', () => withVocab(vocab => delete vocab.the), /has 199997 ordinary tokens, expected 199998/],
  ['an id twice', () => withVocab(vocab => (vocab.the = 5)), /the id 5, which is no id or taken/],
  ['an id that is none', () => withVocab(vocab => (vocab.the = -1)), /the id -1/],
  ['a character that is no byte', () => withVocab(swapName('the', 'th日')), /"日", which stands for no byte/],
  [
    'merges missing',
    () => withMerges(sample.model.merges.slice(0, -3)),
    /has the merges of 19974\d tokens, expected 199742/,
  ],
  ['merges in another order', () => withMerges(sample.model.merges.toReversed()), /expected the order of ids/],
  ['a merge into nothing', () => withMerges([['Ġ', 'Ġqz'], ...sample.model.merges]), /into token undefined/],
  [
    'a token beyond the model',
    () => ({ ...sample, added_tokens: [{ id: 201088, content: '<pad>' }] }),
    /no row for it/,
  ],
  ['a token that is ordinary', () => ({ ...sample, added_tokens: [{ id: 5, content: '<pad>' }] }), /"<pad>" as 5/],
]
for (const [name, make, message] of wrong) {
  test(`a tokenizer.json is refused: ${name}`, () => {
    assert.throws(
      () => tokenizerFromJson(make()),
      (error: Error) => error instanceof CheckpointError && message.test(error.message),
    )
  })
}

function withVocab(change: (vocab: Record<string, number>) => unknown): TokenizerJson {
  const vocab = { ...sample.model.vocab }
  change(vocab)
  return { ...sample, model: { ...sample.model, vocab } }
}

function withMerges(merges: TokenizerJson['model']['merges']): TokenizerJson {
  return { ...sample, model: { ...sample.model, merges } }
}

function swapName(from: string, to: string): (vocab: Record<string, number>) => void {
  return vocab => {
    vocab[to] = vocab[from]
    delete vocab[from]
  }
}
