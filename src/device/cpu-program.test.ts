import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../base/random.ts'
import { Activation, plan, type Step } from './cpu-program.ts'

/** A step whose words are its number and the activations that it reads and writes. */
const step = (id: number, reads: Activation[], writes: Activation[], more: Partial<Step> = {}): Step => {
  return { words: [id, ...reads, ...writes], reads, writes, ...more }
}

test('activations that live at the same time never share memory, and those that do not, do', () => {
  const random = seededRandom(1)
  for (let round = 0; round < 500; round++) {
    const steps: Step[] = []
    const made: Activation[] = []
    for (let n = 0; n < 30; n++) {
      const pick = () => made[Math.max(0, made.length - 1 - Math.floor(random() * 6))]
      const reads = made.length === 0 ? [] : Array.from({ length: 1 + Math.floor(random() * 3) }, pick)
      const writes = Array.from({ length: random() < 0.2 ? 2 : 1 }, () => {
        return new Activation(1 + Math.floor(random() * 4), 1 + Math.floor(random() * 40))
      })
      const inPlace = reads.length > 0 && random() < 0.5 ? reads[0] : undefined
      steps.push(step(n, reads, writes, { inPlace, hasEffect: random() < 0.1 }))
      made.push(...writes)
    }
    const result = made[made.length - 1]
    const { words, arenaBytes, resultOffset } = plan(steps, result)
    // Run it, every 64 bytes holding whose they are.
    const memory = new Map<number, Activation>()
    const bytesAt = (x: Activation, offset: number) => {
      assert.equal(offset % 64, 0)
      assert.ok(offset + x.length * 4 <= arenaBytes)
      return Array.from({ length: Math.ceil((x.length * 4) / 64) }, (_, i) => offset + i * 64)
    }
    const check = (x: Activation, offset: number) => {
      for (const at of bytesAt(x, offset)) assert.equal(memory.get(at), x)
    }
    let numRun = 0
    for (let at = 0; at < words.length; numRun++) {
      const { reads, writes } = steps[words[at++]]
      for (const x of reads) check(x, words[at++])
      for (const x of writes) for (const byte of bytesAt(x, words[at++])) memory.set(byte, x)
    }
    check(result, resultOffset)
    assert.ok(numRun >= 1 && numRun <= steps.length)
  }
})

test('a step that nobody needs is left out, one with an effect stays, and memory is used again', () => {
  const [a, b, c, d] = Array.from({ length: 4 }, () => new Activation(1, 16))
  const chain = [step(0, [], [a]), step(1, [a], [b]), step(2, [b], [c]), step(3, [c], [d])]
  const run = (steps: Step[], result?: Activation) =>
    [...plan(steps, result).words].filter((_, i, words) => {
      // numbers of steps stand before offsets: 0 has one operand, the others have two
      return i === 0 || (i >= 2 && (i - 2) % 3 === 0 && words.length > i)
    })
  assert.deepEqual(run(chain, d), [0, 1, 2, 3])
  assert.equal(plan(chain, d).arenaBytes, 2 * 64)
  assert.deepEqual(run(chain, b), [0, 1])
  assert.deepEqual(run(chain), [])
  assert.deepEqual(run(chain.map((s, i) => ({ ...s, hasEffect: i === 2 }))), [0, 1, 2])
  const inPlace = chain.map(s => ({ ...s, inPlace: s.reads[0] }))
  assert.equal(plan(inPlace, d).arenaBytes, 64)
})
