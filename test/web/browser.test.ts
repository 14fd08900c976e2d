/**
 * The package in a real browser, as docs/browser.md says: the published files, no bundler, the embedded model. Functions
 * given to `evaluate` run in the page.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { type Browser, chromium, type Page } from 'playwright-core'
import { writeDist } from '../../scripts/build.ts'
import { blocksOf, readDocuments } from '../../scripts/check-docs.ts'
import { findChromium } from './chromium.ts'
import { serve, type WebServer } from './server.ts'

type Tutti = typeof import('../../src/index.ts')

const executable = findChromium()
const noBrowser = 'there is no Chromium: run scripts/setup-system, or set CHROMIUM to the path of one'
/** Nobody reads what CI skips: there the browser must be. */
const skip = executable || process.env.CI ? false : noBrowser
const timeoutMs = 120_000 // some times what all takes on two busy cores, and an end to a wait that would have none

/** The page of docs/browser.md, and the same with its import map alone. */
function documentedPages(): { whole: string; blank: string } {
  const blocks = readDocuments().flatMap(({ file, markdown }) => blocksOf(file, markdown))
  const whole = blocks.find(({ marker }) => marker === 'page')?.text
  assert.ok(whole)
  return { whole, blank: whole.replace(/<script type="module">.*?<\/script>/s, '') }
}

describe('in Chromium', { skip, timeout: timeoutMs }, () => {
  const dist = mkdtempSync(join(tmpdir(), 'tutti-web-'))
  let server: WebServer
  let browser: Browser

  before(async () => {
    assert.ok(executable, noBrowser)
    writeDist(dist)
    const { whole, blank } = documentedPages()
    server = await serve({
      pages: { '/documented': whole, '/blank': blank },
      folders: {
        '/node_modules/tutti/dist': dist,
        '/node_modules/tutti/models': join(import.meta.dirname, '../../models'),
      },
    })
    // Chromium's own sandbox does not start for root, who runs CI; the pages are ours.
    browser = await chromium.launch({ executablePath: executable, chromiumSandbox: false })
  })
  after(async () => {
    await browser?.close()
    await server?.[Symbol.asyncDispose]()
    rmSync(dist, { recursive: true, force: true })
  })

  /** Opens a page for `use`. It fails by an error that nothing in the page catches, and by a worker that does not end. */
  async function onPage(path: string, use: (page: Page) => Promise<void>): Promise<void> {
    const page = await browser.newPage()
    page.setDefaultTimeout(timeoutMs)
    const uncaught = new Promise<never>((_, reject) => page.on('pageerror', reject))
    const ended: Promise<unknown>[] = []
    page.on('worker', worker => ended.push(new Promise(resolve => worker.on('close', resolve))))
    await page.goto(server.origin + path)
    await Promise.race([use(page), uncaught])
    await Promise.all(ended)
    await page.close()
  }

  it('the page of the documentation answers', async () => {
    await onPage('/documented', async page => {
      await page.getByText('The capital of Italy is Rome.', { exact: true }).waitFor()
    })
  })

  it('an abort in the middle of a prefill stops the worker, and close() fails what still runs', async () => {
    await onPage('/blank', async page => {
      const found = await page.evaluate(async specifier => {
        const { load, DeviceError }: Tutti = await import(specifier)
        const model = await load('nano', { contextLength: 4096 })
        const tokens = Array.from({ length: 600 }, (_, i) => 1000 + i)

        const controller = new AbortController()
        let numRun = 0
        let rejectedWith: unknown
        try {
          for await (const event of model.generate(tokens, { owner: 'long', signal: controller.signal })) {
            if (event.type !== 'prefill') throw new Error('the prefill was over')
            numRun = event.done
            if (numRun > 0) controller.abort('enough')
          }
        } catch (error) {
          rejectedWith = error
        }

        let numCached = 0
        const again = model.generate(tokens.slice(0, 200), { owner: 'long', maxTokens: 1 })
        for await (const event of again) if (event.type === 'end') numCached = event.usage.cachedTokens

        const running = model.generate(tokens)
        await running.next()
        await model.close()
        const closed = await running.next().catch((error: unknown) => error instanceof DeviceError && error.message)
        return { numRun, rejectedWith, numCached, closed }
      }, 'tutti')
      assert.equal(found.rejectedWith, 'enough')
      assert.ok(found.numRun > 0 && found.numRun < 600)
      // What had run is kept. Had the prefill gone on to its end, all 200 but the last would be.
      assert.ok(found.numRun <= found.numCached && found.numCached < 199, JSON.stringify(found))
      assert.match(String(found.closed), /the model was closed/)
    })
  })

  it('a folder that is not there is refused with the cure', async () => {
    await onPage('/blank', async page => {
      assert.match(await failureOf(page, '/nowhere'), /^CheckpointError: .*\/nowhere holds no \*\.safeten/)
    })
  })

  it('a worker whose script does not come is an error, not a wait', async () => {
    await onPage('/blank', async page => {
      await page.route('**/worker.web.js', route => route.fulfill({ status: 404 }))
      assert.match(
        await failureOf(page, 'nano'),
        /^DeviceError: .*\(its script, or one that it imports, could not be loaded\)/,
      )
    })
  })
})

/** Name and message of the error with which `load(model)` fails in a page. */
function failureOf(page: Page, model: string): Promise<string> {
  const load = async ([specifier, name]: string[]) => {
    const { load }: Tutti = await import(specifier)
    return load(name).then(
      () => 'nothing failed',
      error => `${error.name}: ${error.message}`,
    )
  }
  return page.evaluate(load, ['tutti', model])
}
