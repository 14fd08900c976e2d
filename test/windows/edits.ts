/**
 * Edits, marks, stops and steps in sessions on the reference device, against fresh sessions. Exits 1 and says what was
 * wrong first: the logits, or that more tokens ran than had to.
 *
 *   node --conditions=tutti-source test/windows/edits.ts
 */
import { seededRandom } from '../../src/base/random.ts'
import { Session } from '../../src/engine/session.ts'
import { randomModel, smallConfig } from '../../src/engine/testing.ts'

const { vocabSize, slidingWindow } = smallConfig
const numWindowed = 3
const reach = numWindowed * (slidingWindow - 1)
const model = await randomModel()

for (let seed = 0; seed < 25; seed++) {
  const random = seededRandom(seed)
  const below = (n: number) => Math.floor(random() * n)
  const some = (count: number) => Array.from({ length: count }, () => below(vocabSize))
  using session = new Session(model, { contextLength: 1000, maxChunk: 1 + below(12) })
  for (let i = 0; i < 8; i++) {
    const held = session.tokens.length
    const back = random() < 0.5 ? Math.min(below(2 * reach), held) : below(held + 1)
    const tokens = [...session.tokens.slice(0, held - back), ...some(1 + below(random() < 0.5 ? 6 : 60))]
    const marks = [below(tokens.length + 1), below(tokens.length + 1)]
    let left = random() < 0.3 ? below(40) : Infinity
    const { reused, ran, finished } = await session.sync(tokens, () => left-- <= 0, marks)
    expect(ran <= Math.min(reused, reach) + tokens.length - reused, `${ran} ran behind ${reused} of ${tokens.length}`)
    if (!finished) continue
    await expectFresh(session)
    const more = await session.sync([...session.tokens, below(vocabSize)])
    expect(more.ran === 1, `${more.ran} ran behind all that was held, not 1`)
  }
  // A mark behind which many others are forgotten, but not the newest; then back to it.
  const start = session.tokens.length
  const long = [...session.tokens, ...some(100)]
  const mark = start + 57 + below(3)
  await session.sync(long, undefined, [start + 12, start + 24, start + 36, start + 48, mark])
  for (const token of some(30)) await session.step(token)
  const { ran } = await session.sync([...session.tokens.slice(0, mark), ...some(2)])
  expect(ran === 2, `${ran} ran behind a mark, not 2`)
  await expectFresh(session)
}

async function expectFresh(session: Session): Promise<void> {
  using fresh = new Session(model, { contextLength: 1000, maxChunk: 64 })
  await fresh.sync(session.tokens)
  expect(
    session.logits!.every((logit, i) => logit === fresh.logits![i]),
    'other logits than a fresh session has',
  )
}

function expect(holds: boolean, otherwise: string): void {
  if (holds) return
  console.log(otherwise)
  process.exit(1)
}
