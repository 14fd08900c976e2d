/**
 * node-llama-cpp's side, one process. Prints one line of JSON: the values of the measures.
 *
 *   node bench/peers/llama.ts MODEL.gguf '["decode", "prefill-64"]' STARTED_MS
 *   node bench/peers/llama.ts MODEL.gguf --probabilities '[1, 2, 3]' OUT     float32 [tokens, vocabSize] to a file
 *
 * At its own defaults but for what a fair run needs: the CPU alone, all cores of it, and a context that holds the prompt.
 */
import { writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { benchFolder } from './measures.ts'
import { type Side, takeMeasures } from './side.ts'

/** What is used of node-llama-cpp, which is installed in the bench folder only. */
interface Sequence {
  clearHistory(): Promise<void>
  evaluate(tokens: number[], options?: object): AsyncIterable<number>
  controlledEvaluate(input: unknown[]): Promise<({ next?: { probabilities?: Map<number, number> } } | undefined)[]>
}
interface LlamaModel {
  readonly fileInfo: { metadata: { tokenizer: { ggml: { tokens: readonly string[] } } } }
  createContext(options: object): Promise<{ getSequence(): Sequence }>
}
interface NodeLlamaCpp {
  getLlama(options: object): Promise<{ loadModel(options: object): Promise<LlamaModel> }>
}

const packagePath = join(benchFolder(), 'node-llama-cpp', 'node_modules', 'node-llama-cpp', 'dist', 'index.js')

async function loadModel(modelPath: string): Promise<LlamaModel> {
  const { getLlama } = (await import(pathToFileURL(packagePath).href)) as NodeLlamaCpp
  const llama = await getLlama({ gpu: false, build: 'never', maxThreads: availableParallelism(), logLevel: 'error' })
  return llama.loadModel({ modelPath })
}

async function openSequence(model: LlamaModel, contextSize: number): Promise<Sequence> {
  return (await model.createContext({ contextSize, threads: availableParallelism() })).getSequence()
}

async function open(modelPath: string, contextLength: number): Promise<Side> {
  const model = await loadModel(modelPath)
  const sequence = await openSequence(model, contextLength)
  const evaluate = async (tokens: number[]) => {
    await sequence.clearHistory()
    return sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true })
  }
  const firstToken = async (tokens: number[]) => {
    for await (const _ of await evaluate(tokens)) return
    throw new Error('node-llama-cpp ended without a token')
  }
  return {
    vocabSize: model.fileInfo.metadata.tokenizer.ggml.tokens.length,
    firstToken,
    async generate(tokens, count) {
      let [begun, done] = [0, 0]
      for await (const _ of await evaluate(tokens)) {
        if (done === 0) begun = performance.now()
        if (done++ === count) return (1000 * count) / (performance.now() - begun)
      }
      throw new Error(`node-llama-cpp stopped after ${done} of ${count + 1} tokens`)
    },
    // Its cache has the context's size from the beginning; a prompt takes what a pass computes in.
    fill: tokens => firstToken(tokens.slice(0, 512)),
  }
}

/** What the model expects behind each token of one sequence. */
async function probabilities(modelPath: string, tokens: readonly number[], out: string): Promise<void> {
  const model = await loadModel(modelPath)
  const vocabSize = model.fileInfo.metadata.tokenizer.ggml.tokens.length
  const sequence = await openSequence(model, Math.max(512, tokens.length + 1))
  const options = { generateNext: { probabilities: true, options: { temperature: 1, topK: 0, topP: 1, minP: 0 } } }
  const given = await sequence.controlledEvaluate(tokens.map(token => [token, options]))
  const rows = new Float32Array(tokens.length * vocabSize)
  for (const [i, item] of given.entries()) {
    for (const [token, probability] of item?.next?.probabilities ?? []) rows[i * vocabSize + token] = probability
  }
  writeFileSync(out, rows)
}

const [model, first, second, third] = process.argv.slice(2)
if (first === '--probabilities') await probabilities(model, JSON.parse(second), third)
else {
  const values = await takeMeasures(JSON.parse(first), Number(second), contextLength => open(model, contextLength))
  process.stdout.write(`${JSON.stringify(values)}\n`)
}
process.exit(0) // It would stay alive for its model.
