import { RequestError } from '../base/errors.ts'
import type { Message } from '../harmony/message.ts'

export interface Fitted {
  /** What stays of the conversation. */
  messages: Message[]
  /** Its prompt. */
  tokens: readonly number[]
  /** How many of the oldest turns left. */
  droppedTurns: number
}

/**
 * Shortens a conversation until its prompt leaves `reserve` of the context's `limit` tokens to the answer. The oldest
 * turns leave whole, a call together with its result; system and developer messages stay, and so does the last turn. If
 * that alone leaves less than the reserve, it is kept as long as one token remains for the answer.
 * @param render the prompt of a conversation, as token ids
 * Throws RequestError, with both numbers, when the last turn alone does not fit.
 */
export function fitToContext(
  messages: readonly Message[],
  { limit, reserve = 1 }: { limit: number; reserve?: number },
  render: (messages: readonly Message[]) => readonly number[],
): Fitted {
  const starts = turnStarts(messages)
  const without = (droppedTurns: number): Fitted => {
    const kept = messages.filter((message, i) => isInstruction(message) || i >= starts[droppedTurns])
    return { messages: kept, tokens: render(kept), droppedTurns }
  }
  const fits = ({ tokens }: Fitted) => tokens.length + reserve <= limit
  const whole = without(0)
  if (fits(whole) || starts.length < 2) return checked(whole, limit)

  // Fewer turns never make a longer prompt, so the fewest to drop are found by halving.
  let low = 1
  let best = without(starts.length - 1)
  while (low < best.droppedTurns) {
    const middle = without((low + best.droppedTurns) >> 1)
    if (fits(middle)) best = middle
    else low = middle.droppedTurns + 1
  }
  return checked(best, limit)
}

function checked(fitted: Fitted, limit: number): Fitted {
  const { length } = fitted.tokens
  if (length < limit) return fitted
  throw new RequestError(
    `the prompt has ${length} tokens and the context holds ${limit}, answer included: shorten it, or load the model ` +
      'with a longer context',
    { param: 'input' },
  )
}

/**
 * Where turns begin: at 0, and at each user message that follows an answer; not between a call and its result, which
 * would part them.
 */
function turnStarts(messages: readonly Message[]): number[] {
  const calls = answeredCalls(messages)
  const starts = [0]
  let previous: Message | undefined
  for (const [i, message] of messages.entries()) {
    if (isInstruction(message)) continue
    const begins = message.role === 'user' && previous !== undefined && previous.role !== 'user'
    if (begins && !calls.some(({ call, result }) => call < i && i < result)) starts.push(i)
    previous = message
  }
  return starts
}

/** Places of calls and of their results: a result belongs to the first open call of its name. */
function answeredCalls(messages: readonly Message[]): { call: number; result: number }[] {
  const open: { recipient: string; call: number }[] = []
  const answered: { call: number; result: number }[] = []
  for (const [i, { role, name, recipient }] of messages.entries()) {
    if (role === 'assistant' && recipient !== undefined) open.push({ recipient, call: i })
    if (role !== 'tool' || open.length === 0) continue
    const named = open.findIndex(call => call.recipient === name)
    const [{ call }] = open.splice(Math.max(named, 0), 1)
    answered.push({ call, result: i })
  }
  return answered
}

function isInstruction({ role }: Message): boolean {
  return role === 'system' || role === 'developer'
}
