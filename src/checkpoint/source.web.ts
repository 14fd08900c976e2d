import { CheckpointError } from '../base/errors.ts'
import { endsEarly, type Folder, noFile } from './source.ts'

/** What a web server is asked for in place of a listing; other files are found through the index among these. */
const usualNames = ['config.json', 'model.safetensors.index.json', 'model.safetensors']
const probes = [...usualNames, ...usualNames.map(name => `original/${name}`)]

/** A folder on a web server that answers range requests. Nothing is fetched yet. */
export async function openFolder(url: string): Promise<Folder> {
  return new WebFolder(url)
}

class WebFolder implements Folder {
  readonly path: string
  readonly #base: string
  readonly #sizes = new Map<string, number>()

  constructor(url: string) {
    this.path = url
    this.#base = url.endsWith('/') ? url : `${url}/`
  }

  async list(): Promise<string[]> {
    const sizes = await Promise.all(probes.map(name => this.#probe(name)))
    return probes.filter((_, i) => sizes[i] !== undefined).sort()
  }

  async size(name: string): Promise<number> {
    return (await this.#probe(name)) ?? noFile(this.path, name)
  }

  async read(name: string, begin: number, end: number): Promise<Uint8Array> {
    if (end <= begin) return new Uint8Array(0)
    const response = await this.#fetch(name, begin, end)
    if (rangeOf(response)?.begin !== begin) return this.#refuse(name, response, begin, end)
    const bytes = new Uint8Array(await response.arrayBuffer())
    if (bytes.length < end - begin) endsEarly(this.path, name, begin + bytes.length, end)
    return bytes.subarray(0, end - begin)
  }

  async close(): Promise<void> {}

  /** Bytes of a file; undefined where there is none. */
  async #probe(name: string): Promise<number | undefined> {
    const known = this.#sizes.get(name)
    if (known !== undefined) return known
    // Not HEAD: a browser lets servers compress what it asks for, and then none says the size; but never a range.
    const response = await this.#fetch(name, 0, 1)
    if (isMissing(response)) return void (await response.body?.cancel())
    const size = rangeOf(response)?.size
    if (size === undefined) return this.#refuse(name, response, 0, 1)
    await response.body?.cancel()
    this.#sizes.set(name, size)
    return size
  }

  async #fetch(name: string, begin: number, end: number): Promise<Response> {
    const url = this.#base + name.split('/').map(encodeURIComponent).join('/')
    return fetch(url, { headers: { range: `bytes=${begin}-${end - 1}` } }).catch(error => {
      throw new CheckpointError(`${url} cannot be reached: ${error}; check the address and the connection`, {
        cause: error,
      })
    })
  }

  async #refuse(name: string, response: Response, begin: number, end: number): Promise<never> {
    await response.body?.cancel()
    throw new CheckpointError(
      `${this.#base}${name} answered ${response.status} to a request for bytes ${begin} to ${end}: its server must ` +
        'support range requests (206 with Content-Range and the size); serve the files from one that does',
    )
  }
}

/** Servers of single-page applications answer with their page where there is no file; from a browser's cache even as 206. */
function isMissing({ status, ok, headers }: Response): boolean {
  return status === 404 || status === 403 || (ok && /^text\/html\b/.test(headers.get('content-type') ?? ''))
}

/** What a response to a range request holds; undefined where it is none. An empty file has no range: 416 says its size. */
function rangeOf({ status, headers }: Response): { begin?: number; size?: number } | undefined {
  if ((status !== 206 && status !== 416) || headers.has('content-encoding')) return undefined
  const match = /^bytes (?:(\d+)-\d+|\*)\/(?:(\d+)|\*)$/.exec(headers.get('content-range') ?? '')
  return match ? { begin: toNumber(match[1]), size: toNumber(match[2]) } : undefined
}

const toNumber = (digits: string | undefined): number | undefined => (digits === undefined ? undefined : Number(digits))
