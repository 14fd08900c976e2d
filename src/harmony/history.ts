/** Which messages of the past the next prompt still holds. */
import type { Message } from './message.ts'
import { RECIPIENT_ALL } from './tokens.ts'

/**
 * - `keep`: everything.
 * - `drop`: thoughts that led to an answer go once it is given. Calls and their results stay, so that what was cited can
 *   be looked up, and so do the thoughts of a turn that is still calling tools.
 * - `reference`: openai-harmony's `auto_drop_analysis`.
 */
export type History = 'keep' | 'drop' | 'reference'

const rules: Record<History, (messages: readonly Message[]) => readonly Message[]> = {
  keep: messages => messages,
  drop: withoutPastThoughts,
  reference: withoutAnalysisBeforeFirstFinal,
}

export function historyOf(messages: readonly Message[], history: History): readonly Message[] {
  return rules[history](messages)
}

function withoutPastThoughts(messages: readonly Message[]): readonly Message[] {
  const lastFinal = messages.findLastIndex(({ role, channel }) => role === 'assistant' && channel === 'final')
  return messages.filter((message, i) => i > lastFinal || !isThought(message))
}

/** A call on analysis is no thought: without it, its result would stand alone. */
function isThought({ role, channel, recipient }: Message): boolean {
  const isCall = recipient !== undefined && recipient !== RECIPIENT_ALL
  return role === 'assistant' && channel === 'analysis' && !isCall
}

/** If the assistant's last message is final, all of analysis before the first final goes, whoever wrote either. */
function withoutAnalysisBeforeFirstFinal(messages: readonly Message[]): readonly Message[] {
  if (messages.findLast(({ role }) => role === 'assistant')?.channel !== 'final') return messages
  const firstFinal = messages.findIndex(({ channel }) => channel === 'final')
  return messages.filter(({ channel }, i) => i >= firstFinal || channel !== 'analysis')
}
