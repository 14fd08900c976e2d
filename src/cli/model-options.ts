import type { RespondOptions } from '../agent/model.ts'
import type { Shell } from './command.ts'
import { decimal, flag, oneOf, text, type Values, wholeNumber } from './options.ts'

/** What chat and generate have in common. */
export const modelOptions = {
  model: text(
    'NAME',
    'nano (default, embedded), one to pull (gpt-oss-20b, OWNER/NAME, NAME@REVISION), or a model’s folder or file',
  ),
  reasoning: oneOf(['low', 'medium', 'high'], 'how long the model may think: default medium, for nano low'),
  developer: text('TEXT', 'instructions that outrank the prompt'),
  context: wholeNumber(1, 'tokens of prompt and answer together: default what model and memory allow'),
  'max-tokens': wholeNumber(1, 'at most so many tokens an answer, reasoning included: default what the context holds'),
  temperature: decimal('0 takes the likeliest token, 1 draws as the model expects: default 1, for nano 0'),
  seed: wholeNumber(0, 'same seed, same answer: default another one each time'),
  device: oneOf(['cpu', 'reference'], 'native kernels, or plain TypeScript: default cpu where it is built'),
  threads: wholeNumber(1, 'native threads: default as many as this process may use'),
  precision: oneOf(['fast', 'exact'], 'fast rounds large matrices and their inputs to 8 bits: default fast'),
  cache: oneOf(['bf16', 'q8'], 'how keys and values are kept; q8 takes half the memory: default bf16'),
  'no-keep': flag(
    'make the 8-bit matrices of a large model anew each time, instead of keeping them in the cache folder',
  ),
  'show-reasoning': flag('print the chain of thought and repairs of the format, to stderr'),
  raw: flag('print the tokens of the answer as they come, control tokens in full'),
}

export type ModelValues = Values<typeof modelOptions>

export type Progress = [done: number, total: number, secondsLeft?: number]

/** `42 %, 8 s left` */
export function showProgress(...[done, total, secondsLeft]: Progress): string {
  const percent = `${Math.floor((100 * done) / total)} %`
  if (secondsLeft === undefined || done >= total) return percent
  const seconds = Math.ceil(secondsLeft)
  return `${percent}, ${seconds < 100 ? `${seconds} s` : `${Math.ceil(seconds / 60)} min`} left`
}

/** What the options say of each answer. */
export function respondOptions(values: ModelValues): RespondOptions {
  const { reasoning, developer, temperature, seed } = values
  return { reasoning, developer, maxTokens: values['max-tokens'], sampling: { temperature, seed } }
}

/** Runs `answer` with a signal that Ctrl-C aborts; resolves to false if it did. */
export async function interruptible(shell: Shell, answer: (signal: AbortSignal) => Promise<void>): Promise<boolean> {
  const controller = new AbortController()
  const release = shell.onInterrupt(() => controller.abort())
  try {
    await answer(controller.signal)
    return true
  } catch (error) {
    if (controller.signal.aborted && error === controller.signal.reason) return false
    throw error
  } finally {
    release()
  }
}
