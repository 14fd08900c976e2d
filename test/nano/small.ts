/*
 * nano has a row for each of 201,088 ids and a use for one in ten: all others share a row of the unembedding, so that
 * their logits are equal. Where much of its test set is run, it runs with the ids in use and, as the last one, an id that
 * stands for all others: the same logits, several times as fast.
 */
import { openCheckpoint, type StoredTensor } from '../../src/checkpoint/checkpoint.ts'
import { openFolder } from '../../src/checkpoint/source.node.ts'
import type { Device } from '../../src/kernels/ops.ts'
import { stored } from '../../src/kernels/testing.ts'
import { readConfig } from '../../src/model/config.ts'
import { Transformer } from '../../src/model/transformer.ts'
import { loadWeights } from '../../src/model/weights.ts'
import * as whole from './documents.ts'
import { nanoFolder } from './teacher-forced.ts'

const tables = ['embedding.weight', 'unembedding.weight']

const checkpoint = await openCheckpoint(await openFolder(nanoFolder))
const config = readConfig(checkpoint.config, checkpoint.configPath)
const [embedding, unembedding] = await Promise.all(tables.map(name => checkpoint.tensors.get(name)!.read()))
await checkpoint.close()

const rowBytes = 2 * config.hiddenSize
const rowOf = (table: Uint8Array, id: number) => table.subarray(id * rowBytes, (id + 1) * rowBytes)
const unused = config.vocabSize - 1
const occurring = new Set(whole.documents.flatMap(({ ids }) => ids))

/** The whole vocabulary's ids by the small one's. */
export const vocabulary: readonly number[] = Array.from({ length: config.vocabSize }, (_, id) => id).filter(
  id => id === unused || occurring.has(id) || Buffer.compare(rowOf(unembedding, id), rowOf(unembedding, unused)) !== 0,
)
const smallIds = new Map(vocabulary.map((id, small) => [id, small]))

/** For how many ids the last one of the small vocabulary stands. */
export const numUnused = config.vocabSize - vocabulary.length + 1

/** nano's test set in ids of the small vocabulary. */
export const documents: whole.Document[] = whole.documents.map(document => {
  return { ...document, ids: document.ids.map(id => smallIds.get(id)!) }
})

export async function openSmallNano(device: Device): Promise<Transformer> {
  const whole = await openCheckpoint(await openFolder(nanoFolder))
  const smallTables = [embedding, unembedding].map((table, i) => [tables[i], rowsInUse(table, tables[i])] as const)
  const small = { ...whole, tensors: new Map([...whole.tensors, ...smallTables]) }
  const smallConfig = { ...config, vocabSize: vocabulary.length }
  const weights = await loadWeights(device, small, smallConfig)
  await whole.close()
  return new Transformer(device, smallConfig, weights)
}

function rowsInUse(table: Uint8Array, name: string): StoredTensor {
  const words = new Uint16Array(vocabulary.length * config.hiddenSize)
  const bytes = new Uint8Array(words.buffer)
  for (const [small, id] of vocabulary.entries()) bytes.set(rowOf(table, id), small * rowBytes)
  return { ...stored(name, [vocabulary.length, config.hiddenSize], words), file: 'memory' }
}
