import { join } from 'node:path'
import { openCheckpoint } from '../../src/checkpoint/checkpoint.ts'
import { openFolder } from '../../src/checkpoint/source.node.ts'
import { ReferenceDevice } from '../../src/device/reference.ts'
import type { Device } from '../../src/kernels/ops.ts'
import { readConfig } from '../../src/model/config.ts'
import type { KvCache } from '../../src/model/kv-cache.ts'
import { Transformer } from '../../src/model/transformer.ts'
import { loadWeights } from '../../src/model/weights.ts'

export const nanoFolder = join(import.meta.dirname, '../../models/nano')

/** nano itself, without engine or worker. */
export async function openNano(device: Device = new ReferenceDevice()): Promise<Transformer> {
  const checkpoint = await openCheckpoint(await openFolder(nanoFolder))
  const config = readConfig(checkpoint.config, checkpoint.configPath)
  const weights = await loadWeights(device, checkpoint, config)
  await checkpoint.close()
  return new Transformer(device, config, weights)
}

/**
 * By how many logits each token of `ids[start:end]` leads the likeliest other one, given all ids before it: from 0 on,
 * greedy generation takes it. Spans in rising order; the tokens between them run through the model, too.
 */
export async function leadsOf(
  model: Transformer,
  ids: readonly number[],
  spans: readonly { start: number; end: number }[],
): Promise<Float64Array[]> {
  const cache = model.newCache(ids.length)
  const leads: Float64Array[] = []
  let at = 0
  for (const { start, end } of spans) {
    if (start - 1 > at) await run(model, cache, ids.slice(at, start - 1), at, 'none')
    const logits = await run(model, cache, ids.slice(start - 1, end - 1), start - 1, 'all') // [end - start, vocabSize]
    const { vocabSize } = model.config
    leads.push(
      Float64Array.from({ length: end - start }, (_, row) =>
        leadOf(logits.subarray(row * vocabSize, (row + 1) * vocabSize), ids[start + row]),
      ),
    )
    at = end - 1
  }
  cache.dispose()
  return leads
}

async function run(model: Transformer, cache: KvCache, tokens: number[], start: number, logits: 'none' | 'all') {
  return (await model.forward([{ cache, tokens, start, logits }]))!
}

function leadOf(logits: Float32Array, token: number): number {
  let best = -Infinity
  for (let i = 0; i < logits.length; i++) if (i !== token && logits[i] > best) best = logits[i]
  return logits[token] - best
}
