/**
 * What the total parser mends. About four turns in a hundred of gpt-oss-20b at temperature 1 have a malformed header
 * (measured by others, llama.cpp#27720); each is read as the model most likely meant it, and reported.
 */

/** Kinds of repair, with what was wrong and what was made of it. */
export const REPAIRS = {
  'missing-start': 'a message began without <|start|>: it is read as the assistant’s',
  'missing-end': 'a message began before the last one had ended: the last one ends there',
  'missing-message': 'a header ended without <|message|>: what followed its fields is the content',
  'missing-channel': 'a message with <|message|> or a recipient, but no channel',
  'missing-marker': 'a channel’s name without <|channel|> before it',
  'no-header': 'text without any header: commentary if the turn ended with it in <|return|>, else analysis',
  'empty-header': 'a header of nothing but a role, or of fields cut off before any content: dropped',
  'missing-role': '<|start|> without a role: read as the assistant’s',
  'wrong-role': '<|start|> with another role than assistant: analysis of the assistant, unless it says final; no call',
  'unknown-channel': 'a channel that does not exist: read as analysis',
  'channel-spelling': 'a channel in capitals, after white space, or with more than white space behind it',
  'repeated-channel':
    'more than one <|channel|> in a header: names end at the first control token, the last channel counts',
  'two-recipients': 'more than one recipient: the first declared one counts, or the first',
  'no-recipient':
    'a recipient that cannot be called (no name that a tool may have, on final one without to= or not declared): dropped',
  'recipient-spelling': 'a recipient without to=, with To=, or with something other than white space around it',
  'type-spelling': 'a <|constrain|> without its content type, apart from it, or with a second one',
  'bare-name': 'a function’s name without its namespace: the declared name is meant',
  'call-channel': 'a function call on analysis or final: moved to commentary',
  'call-without-recipient': 'a message that ended in <|call|> and calls nothing',
  'word-order': 'a recipient after the content type',
  leftover: 'words of a header that mean nothing: dropped',
  'stray-token': 'a control token where it means nothing: dropped',
  'unknown-id': 'an id that the vocabulary does not have: dropped',
} as const

export type RepairKind = keyof typeof REPAIRS

/** One repair. `REPAIRS[kind]` says in words what it means. */
export interface Repair {
  kind: RepairKind
  /** Index of the first token concerned, counted from the parser's first. */
  at: number
  /** The tokens concerned, one after the other in the stream. */
  tokens: readonly number[]
}
