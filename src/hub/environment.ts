import { existsSync, readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { RequestError } from '../base/errors.ts'

type Variables = Record<string, string | undefined>

/** What Hugging Face's variables say; the same ones that Python's huggingface_hub reads. */
export interface HubEnvironment {
  /** The folder with one folder for each repository. */
  readonly cache: string
  /** Without a slash at its end. */
  readonly endpoint: string
  readonly token: string | undefined
  /** Send no request at all. */
  readonly offline: boolean
  /** How long an answer may take to begin, and how long one may pause. */
  readonly answerMs: number
  readonly pauseMs: number
  /** Links may be made, if the file system can. */
  readonly links: boolean
  /** The proxy for requests to this address. */
  proxyFor(url: URL): URL | undefined
}

/** Reads the environment. Throws RequestError where an address in it is none. */
export function readEnvironment(env: Variables = process.env, home = homedir()): HubEnvironment {
  const path = (text: string) => resolve(expand(text, env, home))
  const hfHome = path(env.HF_HOME || join(env.XDG_CACHE_HOME || '~/.cache', 'huggingface'))
  return {
    cache: path(env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || join(hfHome, 'hub')),
    endpoint: address('HF_ENDPOINT', env.HF_ENDPOINT || 'https://huggingface.co').href.replace(/\/+$/, ''),
    token: readToken(env, path(env.HF_TOKEN_PATH || join(hfHome, 'token'))),
    offline: isTrue(env.HF_HUB_OFFLINE) || isTrue(env.TRANSFORMERS_OFFLINE),
    answerMs: milliseconds(env.HF_HUB_ETAG_TIMEOUT),
    pauseMs: milliseconds(env.HF_HUB_DOWNLOAD_TIMEOUT),
    links: !isTrue(env.HF_HUB_DISABLE_SYMLINKS),
    proxyFor: url => proxyFor(url, env),
  }
}

const isTrue = (value = ''): boolean => /^(1|on|yes|true)$/i.test(value)

function milliseconds(value: string | undefined): number {
  const seconds = Number(value)
  return seconds > 0 && seconds < 86_400 ? seconds * 1000 : 10_000
}

/** `~` at the begin is the home, `$NAME` and `${NAME}` are variables; unknown ones stay as they are. */
function expand(text: string, env: Variables, home: string): string {
  const expanded = text.replace(/\$(?:(\w+)|\{(\w+)\})/g, (all, plain, braced) => env[plain ?? braced] ?? all)
  return expanded.replace(/^~(?=$|[/\\])/, () => home)
}

function address(name: string, text: string): URL {
  const url = URL.parse(text)
  if (url && /^https?:$/.test(url.protocol)) return url
  throw new RequestError(
    `${name} is ${JSON.stringify(text)}: it must be an address that begins with http:// or https://`,
  )
}

function readToken(env: Variables, path: string): string | undefined {
  if (isTrue(env.HF_HUB_DISABLE_IMPLICIT_TOKEN)) return undefined
  const given = env.HF_TOKEN?.trim() || env.HUGGING_FACE_HUB_TOKEN?.trim()
  const token = given || (existsSync(path) && readFileSync(path, 'utf8').trim()) || undefined
  if (token && !/^[\x21-\x7e]+$/.test(token)) {
    const where = given ? 'the token in HF_TOKEN' : `the token in ${path}`
    throw new RequestError(`${where} holds characters that no token has: copy it again from the hub's settings`)
  }
  return token
}

function proxyFor(url: URL, env: Variables): URL | undefined {
  const value = (name: string) => env[name.toLowerCase()] || env[name] || ''
  const own = url.protocol === 'https:' ? 'HTTPS_PROXY' : 'HTTP_PROXY'
  const name = value(own) ? own : 'ALL_PROXY'
  const proxy = value(name)
  if (!proxy || isExempt(url, value('NO_PROXY'))) return undefined
  return address(name, proxy.includes('://') ? proxy : `http://${proxy}`)
}

/** NO_PROXY: names, with or without a dot or `*.` in front, meant with all below them, perhaps with a port; or `*`. */
function isExempt({ hostname, port, protocol }: URL, list: string): boolean {
  const ownPort = port || (protocol === 'https:' ? '443' : '80')
  return list.split(/[\s,]+/).some(entry => {
    if (entry === '*') return true
    const [, name, wantedPort] = /^(?:\*?\.)?(.*?)(?::(\d+))?$/.exec(entry.toLowerCase()) ?? []
    if (!name || (wantedPort && wantedPort !== ownPort)) return false
    return hostname === name || hostname.endsWith(`.${name}`)
  })
}
