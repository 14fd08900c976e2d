import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type IncomingMessage } from 'node:http'
import { type AddressInfo, connect as connectTo, createServer as createTcpServer } from 'node:net'
import { afterEach, test } from 'node:test'
import { Connections } from './proxy.ts'

const cleanUps: (() => unknown)[] = []
afterEach(() => {
  for (const cleanUp of cleanUps.splice(0)) cleanUp()
})

/** A proxy that answers plain requests itself and opens tunnels to `target`. */
async function startProxy(target: number, status = 200): Promise<{ url: URL; asked: IncomingMessage[] }> {
  const asked: IncomingMessage[] = []
  const server = createServer((request, response) => {
    asked.push(request)
    response.end('by proxy')
  })
  server.on('connect', (request, client) => {
    asked.push(request)
    client.write(`HTTP/1.1 ${status} Whatever\r\n\r\n`)
    if (status !== 200) return client.end()
    const upstream = connectTo(target, '127.0.0.1')
    client.pipe(upstream).pipe(client)
    for (const end of [client, upstream]) end.on('error', () => {})
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  cleanUps.push(
    () => server.close(),
    () => server.closeAllConnections(),
  )
  return { url: new URL(`http://me:pass%20word@127.0.0.1:${(server.address() as AddressInfo).port}`), asked }
}

function get(proxy: URL, url: string): Promise<IncomingMessage> {
  const connections = new Connections(() => proxy)
  cleanUps.push(() => connections.close())
  return new Promise((resolve, reject) => {
    const request = connections.request(new URL(url), { headers: { 'x-own': '1' } })
    request.on('response', resolve)
    request.on('error', reject)
    request.end()
  })
}

const login = `Basic ${Buffer.from('me:pass word').toString('base64')}`

test('plain requests name the whole address to the proxy', async () => {
  const { url, asked } = await startProxy(0)
  const response = await get(url, 'http://hub.example:81/a?b=c')
  assert.equal((await response.toArray()).join(''), 'by proxy')
  assert.equal(asked[0].url, 'http://hub.example:81/a?b=c')
  assert.equal(asked[0].headers.host, 'hub.example:81')
  assert.equal(asked[0].headers['x-own'], '1')
  assert.equal(asked[0].headers['proxy-authorization'], login)
})

test('requests over TLS go through a tunnel, and the proxy sees nothing of them', async () => {
  // No certificate is at hand: that the first bytes through the tunnel are a TLS greeting for the right name is enough.
  const greeted = Promise.withResolvers<Buffer>()
  const target = createTcpServer(socket => {
    socket.on('error', () => {})
    socket.once('data', bytes => {
      greeted.resolve(bytes)
      socket.destroy()
    })
  }).listen(0, '127.0.0.1')
  await once(target, 'listening')
  cleanUps.push(() => target.close())
  const { url, asked } = await startProxy((target.address() as AddressInfo).port)
  await assert.rejects(get(url, 'https://hub.example/secret'))
  const greeting = await greeted.promise
  assert.equal(greeting[0], 22, 'a TLS handshake')
  assert.ok(greeting.includes('hub.example'), 'for this host')
  assert.equal(asked[0].url, 'hub.example:443')
  assert.equal(asked[0].headers['proxy-authorization'], login)
  assert.equal(asked[0].headers['x-own'], undefined)
})

test('a proxy that refuses is named', async () => {
  const { url } = await startProxy(0, 407)
  await assert.rejects(get(url, 'https://hub.example/'), /the proxy 127\.0\.0\.1:\d+ answers 407 when asked for hub/)
})
