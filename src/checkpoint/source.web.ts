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
    const response = await this.#fetch(name, { headers: { range: `bytes=${begin}-${end - 1}` } })
    const range = /^bytes (\d+)-\d+\/(?:\d+|\*)$/.exec(response.headers.get('content-range') ?? '')
    if (response.status !== 206 || Number(range?.[1]) !== begin) {
      await response.body?.cancel()
      throw new CheckpointError(
        `${this.#base}${name} answered ${response.status} to a request for bytes ${begin} to ${end}: ` +
          'its server must support range requests (206 with Content-Range); serve the files from one that does',
      )
    }
    const bytes = new Uint8Array(await response.arrayBuffer())
    if (bytes.length < end - begin) endsEarly(this.path, name, begin + bytes.length, end)
    return bytes.subarray(0, end - begin)
  }

  async close(): Promise<void> {}

  /** Bytes of a file; undefined where there is none. */
  async #probe(name: string): Promise<number | undefined> {
    const known = this.#sizes.get(name)
    if (known !== undefined) return known
    const response = await this.#fetch(name, { method: 'HEAD', headers: { 'accept-encoding': 'identity' } })
    if (response.status === 404 || response.status === 403) return undefined
    const length = response.headers.get('content-length')
    if (!response.ok || length === null || response.headers.has('content-encoding')) {
      throw new CheckpointError(
        `${this.#base}${name} answered ${response.status} without the size of the file; ` +
          'serve the files uncompressed, with Content-Length',
      )
    }
    this.#sizes.set(name, Number(length))
    return Number(length)
  }

  async #fetch(name: string, init: RequestInit): Promise<Response> {
    const url = this.#base + name.split('/').map(encodeURIComponent).join('/')
    return fetch(url, init).catch(error => {
      throw new CheckpointError(`${url} cannot be reached: ${error}; check the address and the connection`, {
        cause: error,
      })
    })
  }
}
