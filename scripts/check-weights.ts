import { decodeBfloat16 } from '../src/base/bfloat16.ts'
import { seededRandom } from '../src/base/random.ts'
import { type Checkpoint, openCheckpoint } from '../src/checkpoint/checkpoint.ts'
import { decodeMxfp4 } from '../src/checkpoint/mxfp4.ts'
import { layerNames } from '../src/checkpoint/names.ts'
import { openFolder } from '../src/checkpoint/source.node.ts'
import type { Device, Ops } from '../src/kernels/ops.ts'
import { type ModelConfig, readConfig } from '../src/model/config.ts'
import { checkTensors } from '../src/model/tensors.ts'
import { Transformer } from '../src/model/transformer.ts'
import { loadWeights } from '../src/model/weights.ts'

/** How random tokens fare in one layer. */
export interface LayerFigures {
  /** Experts that at least one token chose. */
  expertsUsed: number
  /** Share of all choices that fell on the expert chosen most. */
  largestShare: number
  /** Share of SwiGLU's inputs beyond its limit. */
  clamped: number
  /** Channels whose activations are more than five times the usual size. */
  outliers: number
}

export interface Figures {
  numTokens: number
  numExperts: number
  expertsPerToken: number
  layers: LayerFigures[]
  /** Standard deviation of a token's logits, the mean over some tokens. */
  logitDeviation: number
}

/** Of each expert in each layer; enough for the percents that are asked for. */
const sampledPairs = 16

/** Runs random tokens as one sequence through the checkpoint in a folder. `onStep` is told what is being done. */
export async function checkWeights(
  path: string,
  numTokens: number,
  seed: number,
  device: Device,
  onStep: (what: string) => void = () => {},
): Promise<Figures> {
  const checkpoint = await openCheckpoint(await openFolder(path))
  try {
    const config = readConfig(checkpoint.config, checkpoint.configPath)
    checkTensors(checkpoint, config)
    const passes = new Passes()
    const weights = await loadWeights(device, checkpoint, config, {
      onProgress: done => onStep(`loading ${percent(done / checkpoint.byteLength)}`),
    })
    const model = new Transformer(watched(device, passes), config, weights)
    onStep('running the first tokens')
    const tokens = randomTokens(numTokens, config.vocabSize, seed)
    const deviations = await runTokens(model, device.maxChunk, tokens, done => onStep(`${done} tokens are run`))
    const seen = await passes.byLayer(config.numHiddenLayers)
    const layers: LayerFigures[] = []
    for (const [n, { x, experts }] of seen.entries()) {
      onStep(`counting in layer ${n}`)
      const clamped = await clampedShare(checkpoint, config, n, x, experts, seed)
      layers.push({ ...shares(experts, config.numExperts), clamped, outliers: countOutliers(x, config.hiddenSize) })
    }
    const logitDeviation = deviations.reduce((a, b) => a + b) / deviations.length
    const { numExperts, expertsPerToken } = config
    return { numTokens, numExperts, expertsPerToken, layers, logitDeviation }
  } finally {
    await checkpoint.close()
    device.close()
  }
}

/** Ordinary tokens, those of control left out. */
export function randomTokens(count: number, vocabSize: number, seed: number): number[] {
  const random = seededRandom(seed)
  return Array.from({ length: count }, () => Math.floor(random() * Math.min(vocabSize, 199998)))
}

/** Gives the deviation of the logits behind each chunk. */
async function runTokens(
  model: Transformer,
  maxChunk: number,
  tokens: readonly number[],
  onDone: (tokens: number) => void,
): Promise<number[]> {
  const cache = model.newCache(maxChunk)
  const deviations: number[] = []
  for (let start = 0; start < tokens.length; start += maxChunk) {
    const chunk = { cache, tokens: tokens.slice(start, start + maxChunk), start, logits: 'last' as const }
    deviations.push(deviation((await model.forward([chunk]))!))
    onDone(start + chunk.tokens.length)
  }
  return deviations
}

function deviation(values: Float32Array): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length)
}

/** What went into `Ops.experts`, layer by layer and pass after pass. */
class Passes {
  readonly #seen: Promise<{ x: Float32Array; experts: Float32Array }>[] = []

  add(x: Promise<Float32Array>, experts: Promise<Float32Array>): void {
    this.#seen.push(Promise.all([x, experts]).then(([x, experts]) => ({ x, experts })))
  }

  async byLayer(numLayers: number): Promise<{ x: Float32Array; experts: Float32Array }[]> {
    const seen = await Promise.all(this.#seen)
    return Array.from({ length: numLayers }, (_, n) => {
      const ofLayer = seen.filter((_, i) => i % numLayers === n)
      return {
        x: Float32Array.from(ofLayer.flatMap(({ x }) => [...x])),
        experts: Float32Array.from(ofLayer.flatMap(({ experts }) => [...experts])),
      }
    })
  }
}

/** The same device, whose experts tell what they are given. */
function watched(device: Device, passes: Passes): Device {
  const watchedOps = (ops: Ops): Ops => {
    const experts: Ops['experts'] = (x, routing, of, limit) => {
      passes.add(ops.read(x), ops.read(routing.experts))
      return ops.experts(x, routing, of, limit)
    }
    return replaced(ops, { experts })
  }
  return replaced(device, { begin: () => watchedOps(device.begin()) })
}

/** An object with some methods replaced; the others still run on the object itself, whose private fields they need. */
function replaced<T extends object>(object: T, methods: Partial<T>): T {
  return new Proxy(object, {
    get(target, key) {
      if (key in methods) return methods[key as keyof T]
      const value = target[key as keyof T]
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

function shares(experts: Float32Array, numExperts: number): Pick<LayerFigures, 'expertsUsed' | 'largestShare'> {
  const counts = new Array<number>(numExperts).fill(0)
  for (const expert of experts) counts[expert]++
  return {
    expertsUsed: counts.filter(count => count > 0).length,
    largestShare: Math.max(...counts) / experts.length,
  }
}

function countOutliers(x: Float32Array, width: number): number {
  const squares = new Float64Array(width)
  for (let i = 0; i < x.length; i++) squares[i % width] += x[i] ** 2
  const usual = squares.toSorted()[Math.floor(width / 2)]
  return squares.filter(square => square > 25 * usual).length
}

/** Computes some of the gates and linear parts that each token's experts compute, and counts those beyond the limit. */
async function clampedShare(
  checkpoint: Checkpoint,
  config: ModelConfig,
  layer: number,
  x: Float32Array,
  experts: Float32Array,
  seed: number,
): Promise<number> {
  const { hiddenSize, intermediateSize, expertsPerToken, numExperts, swigluLimit } = config
  const names = layerNames(checkpoint.layout, layer)
  const [blocks, scales, bias] = [names.gateUpBlocks, names.gateUpScales, names.gateUpBias].map(
    ([name]) => checkpoint.tensors.get(name)!,
  )
  const random = seededRandom(seed)
  const groups = hiddenSize / 32
  let [beyond, all] = [0, 0]
  for (let expert = 0; expert < numExperts; expert++) {
    const slots = [...experts.keys()].filter(slot => experts[slot] === expert)
    for (let i = 0; i < sampledPairs; i++) {
      const row = 2 * (expert * intermediateSize + Math.floor(random() * intermediateSize)) // its gate, and the next
      const pair = decodeMxfp4(
        await blocks.read(row * groups * 16, (row + 2) * groups * 16),
        await scales.read(row * groups, (row + 2) * groups),
      )
      const biases = decodeBfloat16(new Uint16Array((await bias.read(row * 2, row * 2 + 4)).slice().buffer))
      for (const slot of slots) {
        const token = Math.floor(slot / expertsPerToken) * hiddenSize
        let [gate, linear] = biases
        for (let c = 0; c < hiddenSize; c++) {
          gate += pair[c] * x[token + c]
          linear += pair[hiddenSize + c] * x[token + c]
        }
        if (gate > swigluLimit) beyond++
        if (Math.abs(linear) > swigluLimit) beyond++
        all += 2
      }
    }
  }
  return beyond / all
}

/** Lines for people; those of layers that do not behave say so. */
export function report(figures: Figures): string {
  const { numTokens, layers, logitDeviation } = figures
  const lines = layers.map((layer, n) => {
    const { expertsUsed, largestShare, clamped, outliers } = layer
    const faults = layerFaults(figures, layer)
    return (
      `layer ${n}: ${expertsUsed} experts used, the busiest for ${percent(largestShare)} of the choices; ` +
      `SwiGLU clamped ${percent(clamped)}; ${outliers} outlier channels` +
      (faults.length > 0 ? `  ← ${faults.join(', ')}` : '')
    )
  })
  const logits = `logits deviate by ${logitDeviation.toFixed(2)}${isWithin(logitDeviation) ? '' : '  ← not 1 to 5'}`
  return [`${numTokens} random tokens:`, ...lines, logits].join('\n')
}

/** Whether weights behave as a trained model's do, so that timings with them mean something. */
export function behaves(figures: Figures): boolean {
  return isWithin(figures.logitDeviation) && figures.layers.every(layer => layerFaults(figures, layer).length === 0)
}

const isWithin = (deviation: number): boolean => deviation >= 1 && deviation <= 5

function layerFaults({ numExperts }: Figures, layer: LayerFigures): string[] {
  const least = Math.ceil((7 / 8) * numExperts) // 28 of 32
  const most = Math.max(0.15, 4.8 / numExperts) // of the choices; with fewer experts each has more
  return [
    ...(layer.expertsUsed < least ? [`fewer than ${least} experts`] : []),
    ...(layer.largestShare > most ? [`more than ${percent(most)} for one`] : []),
    ...(layer.clamped > 0.05 ? ['more than 5 % clamped'] : []),
    ...(layer.outliers === 0 ? ['no outliers'] : []),
  ]
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`
