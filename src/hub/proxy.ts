import { type ClientRequest, Agent as HttpAgent, request as httpRequest, type RequestOptions } from 'node:http'
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https'
import type { Duplex } from 'node:stream'
import { connect } from 'node:tls'

const agentOptions = { keepAlive: true, maxSockets: 8, scheduling: 'lifo' } as const

/**
 * Opens requests, through a proxy where one is set. Node's own reading of proxy variables came after the oldest Node
 * that tutti runs on, and the two ways through a proxy are short: plain HTTP names the whole address, HTTPS a tunnel.
 */
export class Connections {
  readonly #proxyFor: (url: URL) => URL | undefined
  readonly #http = new HttpAgent(agentOptions)
  readonly #https = new HttpsAgent(agentOptions)
  readonly #tunnels = new Map<string, TunnelAgent>()

  constructor(proxyFor: (url: URL) => URL | undefined) {
    this.#proxyFor = proxyFor
  }

  request(url: URL, options: RequestOptions): ClientRequest {
    const proxy = this.#proxyFor(url)
    if (url.protocol === 'https:') {
      return httpsRequest(url, { ...options, agent: proxy ? this.#tunnel(proxy) : this.#https })
    }
    if (!proxy) return httpRequest(url, { ...options, agent: this.#http })
    const headers = { ...options.headers, host: url.host, ...authorization(proxy) }
    const open = proxy.protocol === 'https:' ? httpsRequest : httpRequest
    return open(proxy, { ...options, path: url.href, headers })
  }

  close(): void {
    for (const agent of [this.#http, this.#https, ...this.#tunnels.values()]) agent.destroy()
  }

  #tunnel(proxy: URL): TunnelAgent {
    const known = this.#tunnels.get(proxy.href) ?? new TunnelAgent(proxy)
    this.#tunnels.set(proxy.href, known)
    return known
  }
}

/** TLS connections through a tunnel that a proxy opens. */
class TunnelAgent extends HttpsAgent {
  readonly #proxy: URL

  constructor(proxy: URL) {
    super(agentOptions)
    this.#proxy = proxy
  }

  override createConnection(
    options: RequestOptions,
    callback?: (error: Error | null, stream: Duplex) => void,
  ): Duplex | null | undefined {
    const done = callback as (error: Error | null, stream?: Duplex) => void
    const target = `${options.host}:${options.port}`
    const open = this.#proxy.protocol === 'https:' ? httpsRequest : httpRequest
    const headers = { host: target, ...authorization(this.#proxy) }
    const request = open(this.#proxy, { method: 'CONNECT', path: target, headers, agent: false, timeout: 10_000 })
    request.once('connect', (response, socket) => {
      if (response.statusCode === 200) return done(null, connect({ ...(options as object), socket }))
      socket.destroy()
      done(new Error(`the proxy ${this.#proxy.host} answers ${response.statusCode} when asked for ${target}`))
    })
    request.once('timeout', () => request.destroy(new Error(`the proxy ${this.#proxy.host} does not answer`)))
    request.once('error', error => done(error))
    request.end()
    return undefined
  }
}

function authorization({ username, password }: URL): Record<string, string> {
  if (!username) return {}
  const login = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`
  return { 'proxy-authorization': `Basic ${Buffer.from(login).toString('base64')}` }
}
