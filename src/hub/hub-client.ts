import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { CheckpointError, DeviceError, RequestError } from '../base/errors.ts'
import { type JsonObject, type JsonValue, parseJson } from '../base/json.ts'
import type { HubEnvironment } from './environment.ts'
import { Connections } from './proxy.ts'

/** A file of a repository at one commit. */
export interface HubFile {
  /** With `/` between folders. */
  readonly path: string
  readonly size: number
  /** sha256 of the content (64 digits), or git's sha1 of a small file (40); the blob's name in the cache. */
  readonly etag: string
}

export interface Range {
  readonly begin: number
  readonly end: number
}

/** The bytes of a file, or of the range that was asked for. */
export interface Content {
  /** The server sends all of the file, whatever was asked. */
  readonly whole: boolean
  readonly body: AsyncIterable<Buffer>
}

/** No answer, or none that helps: the hub cannot be reached now. What is cached still serves. */
export class Unreachable extends DeviceError {}

/** Not even an answer came: no name, no connection, no time. */
class NoAnswer extends Unreachable {}

/** The server says that the file does not have the range asked for. */
export class RangeRefused extends DeviceError {}

const agentName = `tutti/1; node/${process.versions.node}`
const maxRedirects = 20
const maxJsonBytes = 32 * 2 ** 20
const maxPages = 1000
/** The first try and five more. */
export const maxTries = 6
const maxWaitMs = 15 * 60_000

interface RequestSettings {
  headers?: Record<string, string>
  signal?: AbortSignal
}

export interface ClientOptions {
  signal?: AbortSignal
  /** Called before a request is sent again, so many milliseconds before: `reason` is the failure as a sentence. */
  onRetry?: (reason: string, ms: number) => void
  /** How waiting is done; tests wait less. */
  wait?: (ms: number, signal?: AbortSignal) => Promise<unknown>
}

/** Hugging Face's HTTP API, as far as reading a model needs it. */
export class HubClient {
  readonly #environment: HubEnvironment
  readonly #origin: URL
  readonly #connections: Connections
  readonly #signal: AbortSignal | undefined
  readonly #onRetry: ClientOptions['onRetry']
  readonly #wait: NonNullable<ClientOptions['wait']>

  constructor(environment: HubEnvironment, { signal, onRetry, wait }: ClientOptions = {}) {
    this.#environment = environment
    this.#origin = new URL(environment.endpoint)
    this.#connections = new Connections(environment.proxyFor)
    this.#signal = signal
    this.#onRetry = onRetry
    this.#wait = wait ?? ((ms, signal) => sleep(ms, undefined, { signal }).catch(() => signal?.throwIfAborted()))
  }

  close(): void {
    this.#connections.close()
  }

  /**
   * The commit that a branch, tag or commit stands for. Asked once where no answer comes and `isOptional`: whoever has an
   * answer already need not wait for a network that is not there.
   */
  async commitOf(id: string, revision: string, isOptional = false): Promise<string> {
    const what = `revision ${revision} of ${id}`
    const path = `/api/models/${id}/revision/${encodeURIComponent(revision)}`
    const { value } = await this.#json(path, what, isOptional ? NoAnswer : undefined)
    const sha = value instanceof Map ? value.get('sha') : undefined
    if (typeof sha === 'string' && /^[0-9a-f]{40}$/.test(sha)) return sha
    throw new CheckpointError(`${this.#origin.host} gives no commit for ${what}: this is not how a hub answers`)
  }

  /** All files at a commit. Throws CheckpointError where the list could write outside a cache. */
  async files(id: string, commit: string): Promise<HubFile[]> {
    const files: HubFile[] = []
    let next: string | undefined = `/api/models/${id}/tree/${commit}?recursive=true&expand=false`
    for (let page = 0; next; page++) {
      if (page === maxPages) throw new CheckpointError(`the file list of ${id} does not end after ${maxPages} pages`)
      const { value, headers } = await this.#json(next, `the file list of ${id}`)
      if (!Array.isArray(value)) throw new CheckpointError(`the file list of ${id} is no list`)
      files.push(...value.filter(isFile).map(entry => readFile(entry, id)))
      next = this.#nextPage(headers, id)
    }
    return files
  }

  /**
   * The content of a file, or a range of it, from the hub or where it redirects to. What the answer says of commit,
   * hash and size must be what the file list said. Links that the hub gives expire, so each call asks it anew.
   */
  async content(
    { id, commit, file, range }: { id: string; commit: string; file: HubFile; range?: Range },
    signal = this.#signal,
  ): Promise<Content> {
    const path = `/${id}/resolve/${commit}/${file.path.split('/').map(encodeURIComponent).join('/')}`
    const headers = range ? { range: `bytes=${range.begin}-${range.end - 1}` } : undefined
    return this.#retried(signal, async () => {
      const { response, told } = await this.#follow(path, `${id}/${file.path}`, { headers, signal })
      try {
        checkTold(told, { id, commit, file })
        checkRange(response, file, range)
        return { whole: response.statusCode === 200, body: this.#watched(response, signal) }
      } catch (error) {
        response.destroy()
        throw error
      }
    })
  }

  async #json(
    path: string,
    what: string,
    final?: typeof NoAnswer,
  ): Promise<{ value: JsonValue; headers: IncomingHttpHeaders }> {
    const send = async () => {
      const { response } = await this.#follow(path, what, { signal: this.#signal })
      const chunks: Buffer[] = []
      let size = 0
      for await (const chunk of this.#watched(response)) {
        size += chunk.length
        if (size > maxJsonBytes) throw new CheckpointError(`the answer for ${what} has more than ${maxJsonBytes} bytes`)
        chunks.push(chunk)
      }
      return { value: parseAnswer(Buffer.concat(chunks), what), headers: response.headers }
    }
    return this.#retried(this.#signal, send, final)
  }

  /** The next page's path, from `Link: <…>; rel="next"`. */
  #nextPage(headers: IncomingHttpHeaders, id: string): string | undefined {
    const link = Array.isArray(headers.link) ? headers.link.join(', ') : headers.link
    const target = /<([^>]*)>\s*;[^,]*\brel="?next"?/.exec(link ?? '')?.[1]
    if (target === undefined) return undefined
    const url = URL.parse(target, this.#origin.href)
    if (url?.origin === this.#origin.origin) return url.href
    throw new CheckpointError(
      `the file list of ${id} goes on at ${target}, which is not ${this.#origin.origin}: refused`,
    )
  }

  /** Sends a request and follows redirects by hand, so that the token goes to the hub alone. */
  async #follow(
    path: string,
    what: string,
    { headers, signal }: RequestSettings,
  ): Promise<{ response: IncomingMessage; told: Told }> {
    let url = new URL(path.startsWith('/') ? `${this.#environment.endpoint}${path}` : path)
    const told: Told = {}
    for (let hop = 0; hop <= maxRedirects; hop++) {
      const response = await this.#send(url, { headers, signal })
      const atHub = url.origin === this.#origin.origin
      const location = isRedirect(response) ? response.headers.location : undefined
      if (atHub) collect(told, response, location !== undefined)
      if (location === undefined) {
        if (response.statusCode === 200 || response.statusCode === 206) {
          checkEncoding(response, url)
          return { response, told }
        }
        const text = await this.#text(response, signal)
        throw this.#refusal(response, atHub, what, text)
      }
      discard(response)
      const target = URL.parse(location, url.href)
      if (!target || !/^https?:$/.test(target.protocol)) {
        throw new CheckpointError(`${url.host} sends on to ${location}, which is no web address`)
      }
      url = target
    }
    throw new CheckpointError(`${what}: more than ${maxRedirects} redirects`)
  }

  #send(url: URL, { headers: more, signal }: RequestSettings): Promise<IncomingMessage> {
    const { token, answerMs } = this.#environment
    const headers: Record<string, string> = { 'user-agent': agentName, 'accept-encoding': 'identity', ...more }
    if (token && url.origin === this.#origin.origin && isPrivate(url)) headers.authorization = `Bearer ${token}`
    return new Promise((resolve, reject) => {
      const request = this.#connections.request(url, { headers, signal })
      const late = setTimeout(() => request.destroy(new Error(`no answer in ${answerMs / 1000} s`)), answerMs)
      request.once('response', response => {
        clearTimeout(late)
        resolve(response)
      })
      // Stays for good: a connection that breaks after the answer has begun is told by the answer itself.
      request.on('error', error => {
        clearTimeout(late)
        reject(signal?.aborted ? signal.reason : unreachable(url, error))
      })
      request.end()
    })
  }

  /** The body as it comes; one that pauses too long or breaks is `Unreachable`. */
  async *#watched(response: IncomingMessage, signal = this.#signal): AsyncGenerator<Buffer> {
    const { pauseMs } = this.#environment
    const stalled = () => response.destroy(new Error(`nothing came for ${pauseMs / 1000} s`))
    let timer = setTimeout(stalled, pauseMs)
    try {
      for await (const chunk of response) {
        clearTimeout(timer)
        yield chunk
        timer = setTimeout(stalled, pauseMs)
      }
    } catch (error) {
      if (signal?.aborted) throw signal.reason
      throw new Unreachable(`the connection broke: ${messageOf(error)}`, { cause: error })
    } finally {
      clearTimeout(timer)
      response.destroy()
    }
  }

  async #text(response: IncomingMessage, signal?: AbortSignal): Promise<string> {
    let text = ''
    try {
      for await (const chunk of this.#watched(response, signal)) {
        text += chunk.toString('latin1')
        if (text.length > 500) break
      }
    } catch {
      // what came says enough
    }
    return text
  }

  /** What an answer that is no success means. */
  #refusal(response: IncomingMessage, atHub: boolean, what: string, text: string): Error {
    const status = response.statusCode ?? 0
    const host = atHub ? this.#origin.host : 'the server that it sends on to'
    if (status === 416) return new RangeRefused(`${host} has no such range of ${what}`)
    if ([408, 429, 500, 502, 503, 504].includes(status)) {
      return new Unreachable(`${host} answers ${status} for ${what}; try again later`, {
        cause: status === 429 ? { waitMs: waitOf(response.headers) } : undefined,
      })
    }
    // A signed link that has expired, or that is for another range: the hub gives a new one.
    if (!atHub) return new Unreachable(`${host} answers ${status} for ${what}`)
    return new RequestError(explain(response.headers, status, what, this.#origin, text), { status })
  }

  /** Calls `send` again after failures that pass, but for those of the class `final`. */
  async #retried<T>(signal: AbortSignal | undefined, send: () => Promise<T>, final?: typeof NoAnswer): Promise<T> {
    for (let tries = 1; ; tries++) {
      signal?.throwIfAborted()
      try {
        return await send()
      } catch (error) {
        const passes = error instanceof Unreachable && !(final && error instanceof final)
        if (!passes || tries === maxTries) throw error
        await this.pause(tries, error, signal)
      }
    }
  }

  /** Waits before try `tries` + 1: 1 s, doubling up to 8, or what the server asked for. */
  async pause(tries: number, error: Unreachable, signal = this.#signal): Promise<void> {
    const asked = (error.cause as { waitMs?: number } | undefined)?.waitMs
    const ms = asked || Math.min(1000 * 2 ** (tries - 1), 8000)
    if (ms > maxWaitMs) {
      throw new DeviceError(`${this.#origin.host} asks to wait ${Math.ceil(ms / 60_000)} minutes; try again then`)
    }
    this.#onRetry?.(error.message, ms)
    await this.#wait(ms, signal)
    signal?.throwIfAborted()
  }
}

function isPrivate({ protocol, hostname }: URL): boolean {
  return protocol === 'https:' || hostname === 'localhost' || hostname === '[::1]' || /^127\.[\d.]+$/.test(hostname)
}

const isRedirect = ({ statusCode }: IncomingMessage) => [301, 302, 303, 307, 308].includes(statusCode ?? 0)
/** Reads away what a redirect says, so that its connection serves the next request; nobody says much there. */
function discard(response: IncomingMessage): void {
  response.on('error', () => {})
  if (Number(response.headers['content-length'] ?? Infinity) <= 65_536) response.resume()
  else response.destroy()
}

const messageOf = (error: unknown) => (error instanceof Error && error.message) || String(error)

function unreachable(url: URL, error: Error): NoAnswer {
  const code = (error as NodeJS.ErrnoException).code
  return new NoAnswer(`${url.host} cannot be reached (${error.message || code}); check the network`, {
    cause: error,
  })
}

/** What the hub says of a file, on the way to it. */
interface Told {
  commit?: string
  etag?: string
  size?: number
}

/** The first answer that says something counts: behind a redirect, ETag is another hash. */
function collect(told: Told, { headers }: IncomingMessage, redirects: boolean): void {
  const header = (name: string) => [headers[name]].flat()[0]
  const linkedEtag = header('x-linked-etag')
  const linkedSize = header('x-linked-size')
  told.commit ??= header('x-repo-commit')
  told.etag ??= plainEtag(linkedEtag ?? (redirects ? undefined : header('etag')))
  if (told.size === undefined && linkedSize !== undefined) told.size = Number(linkedSize)
}

const plainEtag = (etag: string | undefined) => etag?.replace(/^W\//, '').replace(/^"(.*)"$/, '$1')

function checkTold(told: Told, { id, commit, file }: { id: string; commit: string; file: HubFile }): void {
  const refuse = (what: string, found: unknown, expected: unknown): never => {
    throw new CheckpointError(
      `${id}/${file.path}: the server gives ${found === undefined ? `no ${what}` : `the ${what} ${found}`}, and its ` +
        `file list says ${expected}: ` +
        'the file changed while it was downloaded, or this is no hub; run the command again',
    )
  }
  if (told.commit !== commit) refuse('commit', told.commit, commit)
  if (told.etag !== file.etag) refuse('hash', told.etag, file.etag)
  if (told.size !== undefined && told.size !== file.size) refuse('size', told.size, file.size)
}

/** Throws where the body is another range, or of a file of another size. */
function checkRange({ statusCode, headers }: IncomingMessage, file: HubFile, range?: Range): void {
  const refuse = (said: string): never => {
    throw new CheckpointError(`${file.path} has ${file.size} bytes, and the server answers ${said}: refused`)
  }
  if (statusCode === 200) {
    const length = headers['content-length']
    if (length !== undefined && Number(length) !== file.size) refuse(`with ${length} bytes`)
    return
  }
  const said = headers['content-range'] ?? 'without Content-Range'
  const [, begin, end, total] = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(said) ?? refuse(said)
  if (total !== '*' && Number(total) !== file.size) refuse(said)
  if (!range || Number(begin) !== range.begin || Number(end) !== range.end - 1) refuse(said)
}

function checkEncoding({ headers }: IncomingMessage, url: URL): void {
  const encoding = headers['content-encoding']
  if (encoding === undefined || encoding === 'identity') return
  throw new DeviceError(
    `${url.host} answers in the encoding ${encoding}, which nobody asked for: look for a proxy that changes answers`,
  )
}

/** How long a 429 asks to wait: `RateLimit: "api";r=0;t=55`, or Retry-After in seconds or as a date. */
function waitOf(headers: IncomingHttpHeaders): number | undefined {
  const limit = /;\s*t=(\d+)/.exec([headers.ratelimit].flat()[0] ?? '')?.[1]
  const after = headers['retry-after']
  const seconds = Number(limit ?? after)
  if (seconds >= 0) return 1000 * (seconds + 1)
  const date = Date.parse(after ?? '')
  return Number.isNaN(date) ? undefined : Math.max(date - Date.now(), 0) + 1000
}

/** The model's name in what was asked for: `revision main of a/b` or `a/b/config.json`. */
const modelIn = (what: string) =>
  what
    .replace(/^.* of /, '')
    .split('/')
    .slice(0, 2)
    .join('/')

function explain(headers: IncomingHttpHeaders, status: number, what: string, { host }: URL, text: string): string {
  const code = headers['x-error-code']
  const message = [headers['x-error-message']].flat()[0]
  if (code === 'GatedRepo') {
    return `${modelIn(what)} is gated: ask for access on its page at ${host}, then give your token in HF_TOKEN`
  }
  if (code === 'RevisionNotFound') return `${host} has no ${what}: check the revision`
  if (code === 'EntryNotFound') return `${host} has no ${what} at this commit`
  if (message === 'Access to this resource is disabled.') return `${host} has disabled ${what}`
  if (message === 'Invalid credentials in Authorization header') {
    return `${host} does not accept your token: make a new one in the hub's settings, or unset HF_TOKEN`
  }
  if (code === 'RepoNotFound' || status === 401 || status === 404) {
    return `${host} has no ${modelIn(what)}, or it is private: check the name; what is private needs a token in HF_TOKEN`
  }
  const said = (message ?? text)
    .replace(/\s+/g, ' ')
    .replace(/[\x00-\x1f\x7f-\x9f]/g, '')
    .slice(0, 200)
  return `${host} answers ${status} for ${what}${said ? `: ${said}` : ''}`
}

function parseAnswer(bytes: Buffer, what: string): JsonValue {
  try {
    return parseJson(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (error) {
    throw new CheckpointError(`the answer for ${what} is no JSON (${messageOf(error)}): is HF_ENDPOINT a hub?`)
  }
}

const isFile = (entry: JsonValue): entry is JsonObject => entry instanceof Map && entry.get('type') === 'file'

function readFile(entry: JsonObject, id: string): HubFile {
  const lfs = entry.get('lfs')
  const [path, size] = [entry.get('path'), entry.get('size')]
  const etag = lfs instanceof Map ? lfs.get('oid') : entry.get('oid')
  const digits = lfs instanceof Map ? 64 : 40
  if (typeof path !== 'string' || !isInside(path)) {
    throw new CheckpointError(
      `the file list of ${id} has the path ${JSON.stringify(path)}, outside its folder: refused`,
    )
  }
  if (typeof etag !== 'string' || !/^[0-9a-f]+$/.test(etag) || etag.length !== digits) {
    throw new CheckpointError(`the file list of ${id} has no hash of ${digits} digits for ${path}: refused`)
  }
  if (!Number.isSafeInteger(size) || (size as number) < 0) {
    throw new CheckpointError(`the file list of ${id} has the size ${size} for ${path}: refused`)
  }
  return { path, size: size as number, etag }
}

/** A relative path that stays below its folder on every system. */
function isInside(path: string): boolean {
  return !/[\\:\0-\x1f]/.test(path) && path.split('/').every(part => part !== '' && part !== '.' && part !== '..')
}
