/**
 * A hub on loopback, and beside it the server of another port that holds the large files: Hugging Face's API as far as
 * reading a model needs it, with what can go wrong put in by a function that changes answers.
 */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** What is asked: of the hub, or `link`: of the other server. */
export type Place = 'revision' | 'tree' | 'resolve' | 'small' | 'link'

export interface Asked {
  at: Place
  /** Of the file, where one is meant. */
  path: string
  method: string
  url: string
  headers: IncomingHttpHeaders
  /** How many requests of this place and path came before. */
  before: number
}

/** A file too large to hold: its bytes are made as they are sent. */
export interface MadeFile {
  readonly length: number
  readonly sha256: string
  pieces(begin: number, end: number): Iterable<Buffer>
}

export interface Answer {
  status: number
  headers: Record<string, string | number>
  body: Buffer
  /** In place of the body. */
  made?: { length: number; pieces: Iterable<Buffer> }
  /** Send so many bytes of the body and break the connection; or leave it open and send nothing more. */
  cutAt?: number
  stallAt?: number
  delayMs?: number
}

export interface HubServerOptions {
  id?: string
  files: Record<string, Buffer | MadeFile>
  /** Paths of large files, which the other server sends. */
  large?: (path: string) => boolean
  /** Changes answers before they are sent. */
  fault?: (answer: Answer, asked: Asked) => void
}

export const sha256 = (bytes: Buffer | string): string => createHash('sha256').update(bytes).digest('hex')
export const gitSha1 = (bytes: Buffer): string =>
  createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex')
const hashOf = (content: Buffer | MadeFile) => (Buffer.isBuffer(content) ? sha256(content) : content.sha256)

export class HubServer {
  readonly id: string
  readonly commit: string
  /** All requests so far. */
  readonly log: Asked[] = []
  fault: HubServerOptions['fault']
  readonly #files: Map<string, Buffer | MadeFile>
  readonly #isLarge: (path: string) => boolean
  readonly #hub: Server
  readonly #links: Server
  #numSigned = 0

  static async start(options: HubServerOptions): Promise<HubServer> {
    const server = new HubServer(options)
    await Promise.all(
      [server.#hub, server.#links].map(it => new Promise<void>(done => it.listen(0, '127.0.0.1', done))),
    )
    return server
  }

  private constructor({ id = 'openai/gpt-oss-20b', files, large, fault }: HubServerOptions) {
    this.id = id
    this.fault = fault
    this.#files = new Map(Object.entries(files))
    this.commit = createHash('sha1')
      .update(JSON.stringify(Object.keys(files)))
      .digest('hex')
    this.#isLarge = large ?? (path => path.endsWith('.safetensors') || path === 'tokenizer.json')
    const serve = (answer: (url: URL, headers: IncomingHttpHeaders, method: string) => [Answer, Place, string]) =>
      createServer((request, response) => {
        const { method = 'GET', url = '/', headers } = request
        const [made, at, path] = answer(new URL(url, 'http://hub'), headers, method)
        const before = this.log.filter(asked => asked.at === at && asked.path === path).length
        const asked = { at, path, method, url, headers, before }
        this.log.push(asked)
        this.fault?.(made, asked)
        void send(response, made, method)
      })
    this.#hub = serve((url, headers) => this.#answerHub(url, headers))
    this.#links = serve((url, headers) => this.#answerLink(url, headers))
  }

  get url(): string {
    return urlOf(this.#hub)
  }

  get linksUrl(): string {
    return urlOf(this.#links)
  }

  /** Requests for the bytes of a file. */
  bodies(path: string): Asked[] {
    return this.log.filter(asked => asked.path === path && (asked.at === 'link' || asked.at === 'small'))
  }

  async close(): Promise<void> {
    for (const server of [this.#hub, this.#links]) {
      server.closeAllConnections()
      await new Promise(done => server.close(done))
    }
  }

  #answerHub({ pathname, searchParams }: URL, headers: IncomingHttpHeaders): [Answer, Place, string] {
    const prefix = `/api/models/${this.id}`
    if (pathname.startsWith(`${prefix}/revision/`)) {
      const siblings = [...this.#files.keys()].map(rfilename => ({ rfilename }))
      return [json({ id: this.id, sha: this.commit, gated: false, disabled: false, siblings }), 'revision', '']
    }
    if (pathname.startsWith(`${prefix}/tree/`)) return [this.#tree(searchParams), 'tree', '']
    const [, kind, path] = /^\/(?:(api\/resolve-cache)|[^/]+\/[^/]+\/resolve)\/[0-9a-f]{40}\/(.*)$/.exec(pathname) ?? []
    const name = decodeURIComponent(path ?? '')
    const content = this.#files.get(name)
    if (!content) return [failure(404, kind ? 'EntryNotFound' : 'RepoNotFound'), 'resolve', name]
    if (kind) return [ranged(content, headers, this.#about(name, content)), 'small', name]
    return [this.#resolve(name, content), 'resolve', name]
  }

  #etag(path: string, content: Buffer | MadeFile): string {
    return this.#isLarge(path) || !Buffer.isBuffer(content) ? hashOf(content) : gitSha1(content)
  }

  #about(path: string, content: Buffer | MadeFile): Record<string, string> {
    return { 'x-repo-commit': this.commit, etag: `"${this.#etag(path, content)}"` }
  }

  #resolve(path: string, content: Buffer | MadeFile): Answer {
    const about = this.#about(path, content)
    if (!this.#isLarge(path)) {
      const location = `/api/resolve-cache/${this.commit}/${encodeURIComponent(path)}`
      return { status: 307, headers: { ...about, location }, body: Buffer.from('moved') }
    }
    const location = `${this.linksUrl}/${encodeURIComponent(path)}?signature=${this.#numSigned++}`
    const headers = {
      ...{ 'x-repo-commit': this.commit, 'x-linked-etag': about.etag, 'x-linked-size': content.length },
      ...{ 'x-xet-hash': '0'.repeat(64), etag: '"not-this"', location },
    }
    return { status: 302, headers, body: Buffer.from('found') }
  }

  #answerLink({ pathname }: URL, headers: IncomingHttpHeaders): [Answer, Place, string] {
    const path = decodeURIComponent(pathname.slice(1))
    const content = this.#files.get(path)
    if (!content) return [failure(404), 'link', path]
    return [ranged(content, headers, { etag: '"a-hash-of-another-kind"' }), 'link', path]
  }

  /** Two pages, as a hub has them for long lists. */
  #tree(query: URLSearchParams): Answer {
    const entries = [...this.#files].map(([path, content]) => {
      const pointer = { oid: hashOf(content), size: content.length, pointerSize: 134 }
      const large = this.#isLarge(path)
      const oid = large ? '1'.repeat(40) : this.#etag(path, content)
      return { type: 'file', path, size: content.length, oid, ...(large && { lfs: pointer, xetHash: '2'.repeat(64) }) }
    })
    const half = Math.ceil(entries.length / 2)
    const folder = { type: 'directory', path: 'metal', size: 0, oid: '3'.repeat(40) }
    if (query.has('cursor')) return json(entries.slice(half))
    const answer = json([folder, ...entries.slice(0, half)])
    const next = `${this.url}/api/models/${this.id}/tree/${this.commit}?recursive=true&cursor=2`
    answer.headers.link = `<${next}>; rel="next"`
    return answer
  }
}

const urlOf = (server: Server) => `http://127.0.0.1:${(server.address() as AddressInfo).port}`

export function json(value: unknown): Answer {
  const body = Buffer.from(JSON.stringify(value))
  return { status: 200, headers: { 'content-type': 'application/json' }, body }
}

/** Makes an answer one that fails. */
export function failure(status: number, code?: string, message?: string): Answer {
  const headers = { ...(code && { 'x-error-code': code }), ...(message && { 'x-error-message': message }) }
  return { status, headers, body: Buffer.from(code ?? '') }
}

function ranged(content: Buffer | MadeFile, { range }: IncomingHttpHeaders, headers: Record<string, string>): Answer {
  const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(range ?? '') ?? []
  if (from === undefined) return { status: 200, headers, ...part(content, 0, content.length) }
  const begin = Number(from)
  const end = Math.min(to ? Number(to) + 1 : content.length, content.length)
  if (begin >= end) return { status: 416, headers: { 'content-range': `bytes */${content.length}` }, body: Buffer.of() }
  const said = { 'content-range': `bytes ${begin}-${end - 1}/${content.length}` }
  return { status: 206, headers: { ...headers, ...said }, ...part(content, begin, end) }
}

function part(content: Buffer | MadeFile, begin: number, end: number): Pick<Answer, 'body' | 'made'> {
  if (Buffer.isBuffer(content)) return { body: content.subarray(begin, end) }
  return { body: Buffer.of(), made: { length: end - begin, pieces: content.pieces(begin, end) } }
}

async function send(response: ServerResponse, answer: Answer, method: string): Promise<void> {
  const { status, headers, body, made, cutAt, stallAt, delayMs } = answer
  if (delayMs) await sleep(delayMs)
  response.writeHead(status, { 'content-length': made?.length ?? body.length, ...headers })
  if (method === 'HEAD') return void response.end()
  if (made) return sendPieces(response, made.pieces)
  const stop = cutAt ?? stallAt
  if (stop === undefined) return void response.end(body)
  response.write(body.subarray(0, stop))
  if (cutAt !== undefined) setTimeout(() => response.destroy(), 20)
}

async function sendPieces(response: ServerResponse, pieces: Iterable<Buffer>): Promise<void> {
  const gone = new AbortController()
  response.once('close', () => gone.abort())
  for (const piece of pieces) {
    if (response.destroyed) return
    if (!response.write(piece)) await once(response, 'drain', gone).catch(() => {})
  }
  response.end()
}
