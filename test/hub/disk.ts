/**
 * A disk between the code under test and the real one: it sees each call of node:fs that concerns a folder, and can make
 * it fail. It works within one thread, on the real code: functions of node:fs are replaced while somebody looks.
 */
import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'

export interface DiskCall {
  /** As in node:fs and without Sync: `rename`. Of an open file `file.write`. */
  readonly name: string
  /** Of two paths the new one. */
  readonly path: string
  readonly args: readonly unknown[]
}

export interface DiskObserver {
  /** Before a call is done. What it throws the call fails with; a file is closed all the same. */
  before?(call: DiskCall): void
  /** When a call has succeeded. */
  after?(call: DiskCall): void
}

type Call = (this: unknown, ...args: unknown[]) => unknown
type Functions = Record<string, Call>

const promised = fs.promises as unknown as Functions
const sync = fs as unknown as Functions
const handleMethods = ['read', 'write', 'writeFile', 'readFile', 'truncate', 'stat', 'datasync', 'sync', 'close']
/** These never fail, or are not about files. */
const left = new Set(['watch', 'constants', 'existsSync', 'closeSync', 'readSync', 'writeSync', 'fstatSync'])

const watches = new Set<{ folder: string; observer: DiskObserver }>()
let unwrap: (() => void) | undefined

/** Shows all calls about `folder` and what lies in it to `observer`, until the function that it gives is called. */
export function watchDisk(folder: string, observer: DiskObserver): () => void {
  const watch = { folder, observer }
  watches.add(watch)
  unwrap ??= wrap()
  return () => {
    watches.delete(watch)
    if (watches.size > 0) return
    unwrap?.()
    unwrap = undefined
  }
}

let isLooking = false // what an observer reads is its own affair

function tell(when: 'before' | 'after', call: DiskCall | undefined): void {
  if (!call || isLooking) return
  isLooking = true
  try {
    for (const { folder, observer } of watches) if (isIn(folder, call.path)) observer[when]?.(call)
  } finally {
    isLooking = false
  }
}

const isIn = (folder: string, path: unknown) =>
  path === folder || (typeof path === 'string' && path.startsWith(`${folder}/`))

function callOf(name: string, args: unknown[]): DiskCall {
  const [first, second] = args
  return {
    name,
    path: String(name !== 'open' && typeof second === 'string' && second.startsWith('/') ? second : first),
    args,
  }
}

/** Replaces the functions of node:fs; gives what puts them back. */
function wrap(): () => void {
  const replaced: [where: Functions, name: string, original: Call][] = []
  const replace = (where: Functions, name: string, make: (original: Call) => Call) => {
    replaced.push([where, name, where[name]])
    where[name] = make(where[name])
  }
  const paths = new WeakMap<object, string>()
  for (const name of Object.keys(promised).filter(name => !left.has(name) && typeof promised[name] === 'function')) {
    replace(promised, name, original => async (...args) => {
      const call = callOf(name, args)
      tell('before', call)
      const result = await original(...args)
      if (name === 'open') paths.set(result as object, call.path)
      tell('after', call)
      return result
    })
  }
  for (const name of Object.keys(sync).filter(name => name.endsWith('Sync') && !left.has(name))) {
    replace(sync, name, original => (...args) => {
      const call = callOf(name.slice(0, -'Sync'.length), args)
      tell('before', call)
      const result = original(...args)
      tell('after', call)
      return result
    })
  }
  for (const name of handleMethods) replace(handlePrototype, name, original => wrapMethod(name, original, paths))
  syncBuiltinESMExports()
  return () => {
    for (const [where, name, original] of replaced) where[name] = original
    syncBuiltinESMExports()
  }
}

function wrapMethod(name: string, original: Call, paths: WeakMap<object, string>): Call {
  return async function (...args) {
    const path = paths.get(this as object)
    const call = path === undefined ? undefined : { name: `file.${name}`, path, args }
    try {
      tell('before', call)
    } catch (error) {
      if (name === 'close') await original.apply(this, args)
      throw error
    }
    const result = await original.apply(this, args)
    tell('after', call)
    return result
  }
}

const own = await fs.promises.open(new URL(import.meta.url))
const handlePrototype = Object.getPrototypeOf(own) as Functions
await own.close()

/** Errors as the system reports them, and what they hit. */
export const diskErrors = {
  /** The disk is full: nothing new, and nothing more in what is there. */
  ENOSPC: call => takesSpace(call),
  EDQUOT: call => takesSpace(call),
  /** The disk became one that cannot be written. */
  EROFS: call => changes(call),
  /** Permissions count when files are opened, made and named. */
  EACCES: call => !call.name.startsWith('file.') && !['stat', 'lstat', 'statfs'].includes(call.name) && changes(call),
  EPERM: call => !call.name.startsWith('file.') && !['stat', 'lstat', 'statfs'].includes(call.name) && changes(call),
  /** The disk is broken, anywhere. */
  EIO: () => true,
} satisfies Record<string, (call: DiskCall) => boolean>

export type DiskCode = keyof typeof diskErrors

const makers = new Set(['mkdir', 'symlink', 'link', 'copyFile', 'writeFile', 'file.write', 'file.writeFile'])
const syncs = new Set(['file.sync', 'file.datasync'])
const changers = new Set([
  ...makers,
  ...syncs,
  'rename',
  'rm',
  'rmdir',
  'unlink',
  'truncate',
  'file.truncate',
  'utimes',
])

const opensToMake = ({ name, args }: DiskCall) => name === 'open' && /[wa]/.test(String(args[1] ?? 'r'))
const opensToWrite = ({ name, args }: DiskCall) => name === 'open' && /[wa+]/.test(String(args[1] ?? 'r'))
const takesSpace = (call: DiskCall) => makers.has(call.name) || syncs.has(call.name) || opensToMake(call)
const changes = (call: DiskCall) => changers.has(call.name) || opensToWrite(call)

/** What Node throws for this. */
export function diskError(code: DiskCode, { name, path }: DiskCall): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: injected, ${name} '${path}'`), { code, syscall: name, path })
}
