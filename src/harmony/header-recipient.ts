import type { RepairKind } from './repair.ts'
import { isRole, RECIPIENT_ALL } from './tokens.ts'

const FUNCTIONS = 'functions.'

/** Who can be called. `declared` undefined: that is not known, and every name may be a tool's. */
export function createRecipients(declared: ReadonlySet<string> | undefined) {
  const resolve = (name: string) => (declared?.has(name) || !declared?.has(FUNCTIONS + name) ? name : FUNCTIONS + name)
  const isDeclared = (name: string) => declared?.has(resolve(name)) ?? false
  // No tool is named like a role, and `all` is nobody in particular.
  const canBeCalled = (name: string) => name !== '' && name !== RECIPIENT_ALL && !isRole(name)

  return {
    isDeclared,
    /** One recipient of those that a header names; on final only a declared tool, if those are known. */
    choose(names: readonly string[], onFinal: boolean): { recipient?: string; flaws: RepairKind[] } {
      if (names.length === 0) return { flaws: [] }
      const flaws: RepairKind[] = []
      const callable = names.filter(
        name => canBeCalled(name) && (!onFinal || declared === undefined || isDeclared(name)),
      )
      if (callable.length < names.length) flaws.push('no-recipient')
      if (callable.length > 1) flaws.push('two-recipients')
      const name = callable.find(isDeclared) ?? callable[0]
      if (name === undefined) return { flaws }
      const recipient = resolve(name)
      if (recipient !== name) flaws.push('bare-name')
      return { recipient, flaws }
    },
  }
}
