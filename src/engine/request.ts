import { RequestError } from '../base/errors.ts'
import type { EngineInfo, GenerateRequest, MaskSpec, SamplingOptions } from './engine.ts'

const priorities: readonly unknown[] = ['interactive', 'background', 'droppable']

/** Refuses a request that no engine of these sizes can answer: RequestError with the option, its value and what it may be. */
export function checkRequest(request: GenerateRequest, info: Pick<EngineInfo, 'vocabSize' | 'contextLength'>): void {
  const { tokens, maxTokens, stopTokens, sampling, mask, marks, owner, priority, deadlineMs } = request
  checkTokens(tokens, info)
  demand('maxTokens', maxTokens, isCount, 'a whole number from 0 on')
  demand('owner', owner, value => typeof value === 'string', 'a string')
  demand('priority', priority, value => priorities.includes(value), 'interactive, background or droppable')
  demand('deadlineMs', deadlineMs, value => isCount(value) && value !== 0, 'a whole number from 1 on')
  if (marks !== undefined) checkMarks(marks)
  if (stopTokens !== undefined) checkIds('stopTokens', stopTokens, info.vocabSize)
  if (mask !== undefined) checkMask(mask, info.vocabSize)
  if (sampling !== undefined) checkSampling(sampling, info.vocabSize)
}

/** Refuses tokens that the model does not have, or that do not fit the context behind the `held` ones. */
export function checkTokens(
  tokens: readonly number[],
  { vocabSize, contextLength }: Pick<EngineInfo, 'vocabSize' | 'contextLength'>,
  held = 0,
): void {
  checkIds('tokens', tokens, vocabSize)
  const length = held + tokens.length
  if (length === 0) refuse('tokens', 'tokens is empty; a prompt has at least one token')
  if (length > contextLength) {
    refuse(
      'tokens',
      `${length} tokens do not fit the context of ${contextLength}: shorten the prompt, or load the model with a longer context`,
    )
  }
}

/** Refuses options that do not describe a distribution. */
export function checkSampling(options: SamplingOptions, vocabSize: number): void {
  const { temperature, topK, topP, minP, frequencyPenalty, presencePenalty, repetitionPenalty } = options
  demand('temperature', temperature, between(0, 1e6), 'a number from 0 to 1000000')
  demand('topK', topK, isCount, 'a whole number from 0 on')
  demand('topP', topP, value => between(0, 1)(value) && value !== 0, 'a number above 0 and up to 1')
  demand('minP', minP, between(0, 1), 'a number from 0 to 1')
  demand('frequencyPenalty', frequencyPenalty, between(-2, 2), 'a number from -2 to 2')
  demand('presencePenalty', presencePenalty, between(-2, 2), 'a number from -2 to 2')
  demand('repetitionPenalty', repetitionPenalty, between(0.01, 100), 'a number from 0.01 to 100')
  demand('seed', options.seed, Number.isSafeInteger, 'a whole number within 2^53')
  demand('logprobs', options.logprobs, isCount, 'a whole number from 0 on')
  for (const [id, bias] of Object.entries(options.logitBias ?? {})) {
    if (!/^(0|[1-9]\d*)$/.test(id) || Number(id) >= vocabSize) {
      refuse('logitBias', `logitBias has the key ${id}; token ids run from 0 to ${vocabSize - 1}`)
    }
    if (bias !== -Infinity && !between(-100, 100)(bias)) {
      refuse('logitBias', `logitBias[${id}] is ${bias}; it must be a number from -100 to 100, or -Infinity to forbid`)
    }
  }
}

function checkMask(mask: MaskSpec, vocabSize: number): void {
  if (mask.type !== 'tokens') refuse('mask', `mask.type is ${mask.type}; it must be tokens`)
  checkIds('mask.allowed', mask.allowed, vocabSize, 'mask')
}

function checkMarks(marks: readonly number[]): void {
  if (!Array.isArray(marks)) refuse('marks', `marks is ${typeof marks}; it must be an array of positions`)
  const wrong = marks.findIndex(mark => !isCount(mark))
  if (wrong >= 0) refuse('marks', `marks[${wrong}] is ${marks[wrong]}; it must be a whole number from 0 on`)
}

function checkIds(name: string, ids: readonly number[], vocabSize: number, param = name): void {
  if (!Array.isArray(ids)) refuse(param, `${name} is ${typeof ids}; it must be an array of token ids`)
  const wrong = ids.findIndex(id => !Number.isInteger(id) || id < 0 || id >= vocabSize)
  if (wrong >= 0) refuse(param, `${name}[${wrong}] is ${ids[wrong]}; token ids run from 0 to ${vocabSize - 1}`)
}

/** Options may be missing. */
function demand(name: string, value: unknown, holds: (value: unknown) => boolean, range: string): void {
  if (value !== undefined && !holds(value)) refuse(name, `${name} is ${value}; it must be ${range}`)
}

const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0

const between =
  (low: number, high: number) =>
  (value: unknown): boolean =>
    typeof value === 'number' && value >= low && value <= high

function refuse(param: string, message: string): never {
  throw new RequestError(message, { param })
}
