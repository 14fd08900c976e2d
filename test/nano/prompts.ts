import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Model } from '../../src/index.ts'
import { nanoFolder } from './teacher-forced.ts'

/** A question with the greedy answer of the model as it was trained. */
export interface Prompt {
  name: string
  promptIds: number[]
  answer: string
  answerIds: number[]
  /** The least by which a token of the answer led the next likely one, in logits. */
  smallestLead: number
}

export const prompts: Prompt[] = JSON.parse(readFileSync(join(nanoFolder, 'prompts.json'), 'utf8'))

/** What the model writes after the prompt when it takes the likeliest token each time. */
export async function greedyAnswer(model: Model, { promptIds }: Prompt): Promise<number[]> {
  const generated: number[] = []
  for await (const event of model.generate(promptIds, { sampling: { temperature: 0 }, maxTokens: 200 })) {
    if (event.type === 'token') generated.push(event.token)
  }
  return generated
}
