import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { nanoFolder } from './teacher-forced.ts'

export interface Turn {
  start: number
  end: number
  /** The parts of the turn outside analysis, as [start, end]. */
  answer: [number, number][]
  right: boolean
  answerRight: boolean
}

/** A conversation with the model's turns, each recorded as right or wrong by greedy generation. */
export interface Document {
  skill: string
  ids: number[]
  turns: Turn[]
}

/** nano's test set: 80 documents a skill. */
export const documents: Document[] = readFileSync(join(nanoFolder, 'eval.jsonl'), 'utf8')
  .trimEnd()
  .split('\n')
  .map(line => JSON.parse(line))
