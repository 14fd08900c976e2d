import { createReadStream, statSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { extname, join } from 'node:path'

const types: Record<string, string> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.json': 'application/json',
}

export interface WebServer extends AsyncDisposable {
  /** `http://127.0.0.1:…`, without a slash at the end. */
  readonly origin: string
}

export interface Site {
  /** Pages by their path. */
  pages: Record<string, string>
  /** Folders by the path under which their files lie. */
  folders: Record<string, string>
}

/** Serves a site on 127.0.0.1 as the documentation asks of a server: byte ranges. */
export async function serve(site: Site): Promise<WebServer> {
  const server = createServer((request, response) => {
    const path = new URL(request.url ?? '/', 'http://localhost').pathname
    if (path in site.pages) sendPage(site.pages[path], response)
    else sendFile(fileAt(path, site.folders), request, response)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.asyncDispose]() {
      const closed = new Promise<void>(resolve => server.close(() => resolve()))
      server.closeAllConnections()
      return closed
    },
  }
}

function sendPage(html: string, response: ServerResponse): void {
  response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' }).end(html)
}

/** A URL's path never leaves its root: the parser has resolved its dots. */
function fileAt(path: string, folders: Record<string, string>): string | undefined {
  const prefix = Object.keys(folders).find(folder => path.startsWith(`${folder}/`))
  return prefix && join(folders[prefix], path.slice(prefix.length))
}

function sendFile(file: string | undefined, request: IncomingMessage, response: ServerResponse): void {
  const size = file === undefined ? undefined : statSync(file, { throwIfNoEntry: false })?.size
  if (file === undefined || size === undefined) return void response.writeHead(404).end()
  const headers = { 'content-type': types[extname(file)] ?? 'application/octet-stream' }
  const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '')
  const [start, end] = range ? [Number(range[1]), Math.min(Number(range[2]), size - 1)] : [0, size - 1]
  response.writeHead(range ? 206 : 200, {
    ...headers,
    'content-length': end - start + 1,
    ...(range && { 'content-range': `bytes ${start}-${end}/${size}` }),
  })
  if (request.method === 'HEAD') response.end()
  else createReadStream(file, { start, end }).pipe(response)
}
