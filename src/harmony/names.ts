/**
 * What may stand in a header and in a declaration. A tool's name stands where others have their role, so it must not be
 * a role, nor hold what ends a word, starts a recipient or opens a comment.
 */
import { HarmonyError } from '../base/errors.ts'
import { isRole, RECIPIENT_ALL } from './tokens.ts'

/** Longer names cost tokens in every call, and no API sends them. */
export const MAX_NAME_LENGTH = 256

/** Letters, digits and marks of any script, and what people join words with; nothing invisible. */
const plainName = /^[\p{L}\p{N}_](?:[\p{L}\p{M}\p{N}_.-]|\/(?!\/))*$/u
const invisible = /\p{Default_Ignorable_Code_Point}/u
/** White space, the header's own signs, control and format characters, halves of surrogate pairs. */
const breaksHeader = /[\p{White_Space}<|=:\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/u

/** Why this cannot be the name of a tool or a namespace; undefined if it can. */
export function toolNameProblem(name: string): string | undefined {
  if (typeof name !== 'string' || name === '') return 'is empty'
  if (name.length > MAX_NAME_LENGTH) return `is ${name.length} characters long, at most ${MAX_NAME_LENGTH} are allowed`
  if (!plainName.test(name) || invisible.test(name)) {
    return 'may hold letters, digits and _ - . / only, and begins with a letter, a digit or _'
  }
  const looksLike = name.normalize('NFKC').toLowerCase()
  if (isRole(looksLike)) return 'is a role: whoever answers under it would speak with its authority'
  if (looksLike === RECIPIENT_ALL) return `means everyone: a call to ${RECIPIENT_ALL} reaches no tool`
  return undefined
}

/** Throws HarmonyError where a name could be taken for a role or break out of a header or a declaration. */
export function checkToolName(name: string, what = 'a tool'): void {
  const problem = toolNameProblem(name)
  if (problem !== undefined) {
    throw new HarmonyError(`the name of ${what}, ${shown(name)}, ${problem}; rename it (sanitizeToolNames does)`)
  }
}

/** Throws HarmonyError where a part of a header would end it, or be read as another part. */
export function checkHeaderPart(value: string, what: string): void {
  const found = breaksHeader.exec(value)?.[0]
  if (found === undefined) return
  throw new HarmonyError(
    `${what} is ${shown(value)} and holds ${shown(found)}, which a header cannot carry; use letters, digits and _ - . /`,
  )
}

/** Names that a header can carry, each unlike the others, and the way back. */
export interface SanitizedNames {
  /** The name to show to the model, for a name that was given. */
  toModel: ReadonlyMap<string, string>
  /** The name that was given, for one that the model wrote. */
  fromModel: ReadonlyMap<string, string>
}

/** Good names stay; others are changed to the nearest that is good and not taken. */
export function sanitizeToolNames(names: Iterable<string>): SanitizedNames {
  const toModel = new Map<string, string>()
  const fromModel = new Map<string, string>()
  const given = [...new Set(names)]
  const keep = (name: string, shownAs: string) => {
    toModel.set(name, shownAs)
    fromModel.set(shownAs, name)
  }
  for (const name of given) if (toolNameProblem(name) === undefined) keep(name, name)
  for (const name of given) if (!toModel.has(name)) keep(name, unused(plainest(name), fromModel))
  return { toModel, fromModel }
}

/** What is left of a name when all that no name may hold is `_`. */
function plainest(name: string): string {
  const word = name
    .replace(/\p{Default_Ignorable_Code_Point}/gu, '')
    .replace(/[^\p{L}\p{M}\p{N}_.-]/gu, '_')
    .replace(/^(?=[^\p{L}\p{N}_])/u, '_')
  const short = [...word].slice(0, MAX_NAME_LENGTH / 4).join('')
  return toolNameProblem(short) === undefined ? short : `tool_${short}`
}

function unused(name: string, taken: ReadonlyMap<string, string>): string {
  let candidate = name
  for (let n = 2; taken.has(candidate); n++) candidate = `${name}_${n}`
  return candidate
}

/** A name in an error message: short, its odd characters visible. */
function shown(text: string): string {
  const visible = JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text)
  return visible.replace(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\u0085]/gu,
    c => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}
