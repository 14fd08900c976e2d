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
import {
  benchFolder,
  decodePrompt,
  decodeTokens,
  memoryContext,
  prefillLength,
  privateGigabytes,
  prompt,
  secondsSince,
  startPrompt,
  type Values,
} from './measures.ts'

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

async function measure(modelPath: string, names: readonly string[], started: number): Promise<Values> {
  const model = await loadModel(modelPath)
  const vocabSize = model.fileInfo.metadata.tokenizer.ggml.tokens.length
  const longest = Math.max(512, ...names.map(name => prefillLength(name) ?? 0))
  const sequence = await openSequence(model, names.includes('memory') ? memoryContext : longest + 256)
  const tokens = (length: number, seed: number) => prompt(length, seed, vocabSize)
  if (names.includes('start')) {
    await firstToken(sequence, tokens(startPrompt, 1))
    return { start: secondsSince(started) }
  }
  await generate(sequence, tokens(decodePrompt, 1), 8) // Whatever is done once is done.
  const values: Values = {}
  for (const name of names) {
    const length = prefillLength(name)
    if (name === 'decode') values[name] = await generate(sequence, tokens(decodePrompt, 2), decodeTokens)
    else if (length !== undefined) values[name] = length / (await firstToken(sequence, tokens(length, 3)))
    else if (name === 'memory') {
      // Its cache has the context's size from the beginning: it need not be filled.
      await firstToken(sequence, tokens(512, 3))
      values[name] = privateGigabytes()
    } else throw new Error(`node-llama-cpp has no measure ${name}`)
  }
  return values
}

/** Seconds from a prompt to its first token. */
async function firstToken(sequence: Sequence, tokens: number[]): Promise<number> {
  await sequence.clearHistory()
  const start = performance.now()
  for await (const _ of sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true })) break
  return (performance.now() - start) / 1000
}

/** Tokens a second behind the first. */
async function generate(sequence: Sequence, tokens: number[], count: number): Promise<number> {
  await sequence.clearHistory()
  let [start, done] = [0, 0]
  for await (const _ of sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true })) {
    if (done === 0) start = performance.now()
    if (done++ === count) break
  }
  if (done <= count) throw new Error(`node-llama-cpp stopped after ${done} of ${count + 1} tokens`)
  return (1000 * count) / (performance.now() - start)
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
else process.stdout.write(`${JSON.stringify(await measure(model, JSON.parse(first), Number(second)))}\n`)
process.exit(0) // It would stay alive for its model.
