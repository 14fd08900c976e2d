import type { NamedRecipient } from './header-fields.ts'
import { toolNameProblem } from './names.ts'
import type { RepairKind } from './repair.ts'

const FUNCTIONS = 'functions.'

/** Who can be called. `declared` undefined: that is not known, and every name may be a tool's. */
export function createRecipients(declared: ReadonlySet<string> | undefined) {
  const resolve = (name: string) => (declared?.has(name) || !declared?.has(FUNCTIONS + name) ? name : FUNCTIONS + name)
  const isDeclared = (name: string) => declared?.has(resolve(name)) ?? false
  // Whoever answers a call stands under its name, so that no call has a name that no tool may have.
  const canBeCalled = (name: string) => toolNameProblem(name) === undefined

  return {
    isDeclared,
    /** One recipient of those that a header names. An answer becomes a call only by `to=` and a tool that may exist. */
    choose(named: readonly NamedRecipient[], onFinal: boolean): { recipient?: string; flaws: RepairKind[] } {
      if (named.length === 0) return { flaws: [] }
      const flaws: RepairKind[] = []
      const callable = named
        .filter(({ name }) => canBeCalled(name))
        .filter(({ name, isBare }) => !onFinal || (!isBare && (declared === undefined || isDeclared(name))))
        .map(({ name }) => name)
      if (callable.length < named.length) flaws.push('no-recipient')
      if (callable.length > 1) flaws.push('two-recipients')
      const name = callable.find(isDeclared) ?? callable[0]
      if (name === undefined) return { flaws }
      const recipient = resolve(name)
      if (recipient !== name) flaws.push('bare-name')
      return { recipient, flaws }
    },
  }
}
