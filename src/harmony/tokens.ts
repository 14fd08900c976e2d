/**
 * The control tokens of o200k_harmony and the words of a header.
 * Source: openai/harmony, `docs/format.md` and `src/encoding.rs`; spec of the ids: `<|start|>` 200006 and its neighbours.
 */
import type { Channel, Role } from './message.ts'

export const START_OF_TEXT = 199998
export const END_OF_TEXT = 199999
export const RETURN = 200002
export const CONSTRAIN = 200003
export const CHANNEL = 200005
export const START = 200006
export const END = 200007
export const MESSAGE = 200008
export const CALL = 200012
export const END_OF_PROMPT = 200018

/** The lowest id that is no ordinary text: `<|startoftext|>`. */
export const FIRST_SPECIAL = START_OF_TEXT
/** The last row of the model's vocabulary, `<|reserved_201087|>`; openai-harmony also knows a 201088. */
export const LAST_SPECIAL = 201087

/** How control tokens are written in text. */
export const CHANNEL_MARKER = '<|channel|>'
export const CONSTRAIN_MARKER = '<|constrain|>'

/** Tokens that end a message. */
export const END_TOKENS: readonly number[] = [END, RETURN, CALL]

/** openai-harmony's `stop_tokens()`: every token that ends a message. */
export const STOP_TOKENS: readonly number[] = [RETURN, END, CALL]

/** openai-harmony's `stop_tokens_for_assistant_actions()`: a turn ends in its answer or in a call. */
export const STOP_TOKENS_FOR_ASSISTANT_ACTIONS: readonly number[] = [RETURN, CALL]

/** Where generation ends: as the published generation_config lists them. */
export const GENERATION_STOP_TOKENS: readonly number[] = [RETURN, END_OF_TEXT, CALL]

export const ROLES: readonly Role[] = ['system', 'developer', 'user', 'assistant', 'tool']

export const CHANNELS: readonly Channel[] = ['analysis', 'commentary', 'final']

/** A recipient that is not printed, yet makes the message a call. */
export const RECIPIENT_ALL = 'all'

export function isRole(text: string): text is Role {
  return (ROLES as readonly string[]).includes(text)
}

export function isChannel(text: string): text is Channel {
  return (CHANNELS as readonly string[]).includes(text)
}
