import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Patch } from '../board/row.ts'
import { plant, runNode } from '../planted.ts'

const kvCache = 'src/model/kv-cache.ts'
const cache = 'src/kernels/attention/cache.ref.ts'
const session = 'src/engine/session.ts'

/** Likely mistakes in going back, and what tells them. */
const mistakes: (Patch & { what: string; found: RegExp })[] = [
  {
    what: 'only one window is run again',
    file: kvCache,
    search: '(sum, layer) => sum + layer.window - 1',
    replace: '(_, layer) => layer.window - 1',
    found: /logits/,
  },
  {
    what: 'windows that began empty count as exact',
    file: kvCache,
    search: 'const canGoOn = this.#start <= restart && this.#see(here)',
    replace: 'const canGoOn = this.#start <= here && this.#see(here)',
    found: /logits/,
  },
  {
    what: 'windows are marked before they are exact',
    file: kvCache,
    search: 'return this.#start <= Math.max(0, position - this.#reach) && this.#see(position)',
    replace: 'return this.#see(position)',
    found: /logits/,
  },
  {
    what: 'a ring that has lost one token counts as whole',
    file: kvCache,
    search: 'Math.max(this.#start, position - layer.window + 1)',
    replace: 'Math.max(this.#start, position - layer.window + 2)',
    found: /logits/,
  },
  {
    what: 'a snapshot lacks its earliest token',
    file: kvCache,
    search: 'Math.max(0, from - layer.window + 1), position)',
    replace: 'Math.max(0, from - layer.window + 2), position)',
    found: /logits/,
  },
  {
    what: 'a snapshot keeps tokens that were cut off',
    file: kvCache,
    search: 'snapshot.position = Math.min(snapshot.position, position)',
    replace: 'snapshot.position = snapshot.position',
    found: /logits/,
  },
  {
    what: 'restored windows are taken for ones that began empty where they did before',
    file: kvCache,
    search: "    else if (windows !== 'kept') this.#start = 0\n",
    replace: '',
    found: /ran behind all/,
  },
  {
    what: 'the newest mark may go',
    file: kvCache,
    search: ' || snapshot.position === newest',
    replace: '',
    found: /ran behind a mark/,
  },
  {
    what: 'a snapshot without values',
    file: cache,
    search: '      copy.values.set(this.values.subarray(from, from + width), to)\n',
    replace: '',
    found: /logits/,
  },
  {
    what: 'a snapshot laid back from the start of the ring',
    file: cache,
    search: 'const [from, to] = [(p - first) * width, this.offset(p)]',
    replace: 'const [from, to] = [(p - first) * width, this.offset(p - first)]',
    found: /logits/,
  },
  {
    what: 'a restored ring begins nowhere',
    file: cache,
    search: '    this.first = first\n    this.length = length\n  }\n\n  fork',
    replace: '    this.first = 0\n    this.length = length\n  }\n\n  fork',
    found: /logits/,
  },
  {
    what: 'marks are taken one token late',
    file: session,
    search: 'this.#cache.mark(mark)',
    replace: 'this.#cache.mark(mark + 1)',
    found: /ran behind a mark/,
  },
  {
    what: 'marks inside a chunk are passed over',
    file: session,
    search: 'for (const mark of passed) this',
    replace: 'for (const mark of passed) if (mark === reached) this',
    found: /ran behind a mark/,
  },
]

test('the sound source goes back right, and runs what it must', async () => {
  const { code, stdout, stderr } = await plant([], folder => runNode(folder, ['test/windows/edits.ts']))
  assert.equal(code, 0, `${stdout}${stderr}`)
})

for (const { what, found, ...patch } of mistakes) {
  test(`edits find the mistake: ${what}`, async () => {
    const { code, stdout, stderr } = await plant([patch], folder => runNode(folder, ['test/windows/edits.ts']))
    assert.equal(code, 1, `${stdout}${stderr}`)
    assert.match(stdout, found, stderr)
  })
}
