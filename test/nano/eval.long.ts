import assert from 'node:assert/strict'
import { it } from 'node:test'
import { CpuDevice } from '../../src/device/cpu.node.ts'
import { loadNative } from '../../src/device/native.node.ts'
import { ReferenceDevice } from '../../src/device/reference.ts'
import type { Device } from '../../src/kernels/ops.ts'
import type { Turn } from './documents.ts'
import { documents, openSmallNano } from './small.ts'
import { leadsOf } from './teacher-forced.ts'

interface Run {
  on: string
  open: () => Device
  documentsPerSkill: number
  /** Leads of fewer logits may be taken otherwise than by the training model. */
  close: number
  /** The share of verdicts that may be other ones for it. */
  others: number
}

const runs: Run[] = [
  // The training model's logits and these, both float32, differ by up to 5e-5 each, so a lead by 1e-4.
  { on: 'the reference', open: () => new ReferenceDevice(), documentsPerSkill: 20, close: 2e-4, others: 0.01 },
]
const native = loadNative()
if (typeof native !== 'string') {
  const open = (precision: 'exact' | 'fast') => () => new CpuDevice(native, { precision, threads: 1 })
  runs.push(
    // Keys and values in bfloat16 change a lead by 0.03 in the root mean square, 99 of 100 by less than 0.08.
    { on: 'the cpu device, exact', open: open('exact'), documentsPerSkill: 80, close: 0.1, others: 0.002 },
    // 8 bits by 0.12, 99 of 100 by less than 0.4.
    { on: 'the cpu device with 8 bits', open: open('fast'), documentsPerSkill: 80, close: 0.5, others: 0.01 },
  )
}

for (const { on, open, documentsPerSkill, close, others } of runs) {
  it(`gpt-oss-nano gets right what its card says it does, turn by turn, on ${on}`, async t => {
    const model = await openSmallNano(open())
    const tooClose: string[] = []
    const wrong: string[] = []
    let numVerdicts = 0
    const skills = Map.groupBy(documents, ({ skill }) => skill)
    for (const [skill, all] of skills) {
      const counts = { right: new Count(), answerRight: new Count() }
      for (const [n, { ids, turns }] of all.slice(0, documentsPerSkill).entries()) {
        const leads = await leadsOf(model, ids, turns)
        for (const [i, turn] of turns.entries()) {
          for (const { what, recorded, leads: deciding } of verdictsOf(turn, leads[i])) {
            const verdict = isRight(deciding)
            numVerdicts++
            counts[what].add(verdict, recorded)
            if (verdict === recorded) continue
            const least = Math.min(...deciding)
            const list = couldBe(recorded, deciding, close) ? tooClose : wrong
            list.push(`${skill} ${n}, turn ${i}: ${what} is recorded as ${recorded}; least lead ${least}`)
          }
        }
      }
      t.diagnostic(`${skill.padEnd(10)} turns right ${counts.right}, answers right ${counts.answerRight}`)
    }
    model.close()
    for (const line of tooClose) t.diagnostic(`closer than rounding: ${line}`)
    t.diagnostic(`${tooClose.length} of ${numVerdicts} verdicts are closer than rounding and other than recorded`)
    assert.deepEqual(wrong, [])
    assert.ok(tooClose.length <= others * numVerdicts)
    assert.equal(skills.size, 17)
  })
}

/** How many of some turns are right, and how many are recorded as right. */
class Count {
  #all = 0
  #right = 0
  #recorded = 0

  add(right: boolean, recorded: boolean): void {
    this.#all++
    if (right) this.#right++
    if (recorded) this.#recorded++
  }

  toString(): string {
    const percent = (count: number) => `${((100 * count) / this.#all).toFixed(1)} %`.padStart(7)
    return `${percent(this.#right)} of ${this.#all} (card: ${percent(this.#recorded)})`
  }
}

/** Whether a whole turn, and whether what it says outside analysis, is right; and the leads that decide it. */
function verdictsOf(turn: Turn, leads: Float64Array) {
  const answer = turn.answer.flatMap(([start, end]) => [...leads.subarray(start - turn.start, end - turn.start)])
  return [
    { what: 'right', recorded: turn.right, leads: [...leads] },
    { what: 'answerRight', recorded: turn.answerRight, leads: answer },
  ] as const
}

/** Whether greedy generation gives every token. Rows of unused ids are equal, so a lead of nothing counts. */
function isRight(leads: readonly number[]): boolean {
  return leads.every(lead => lead >= 0)
}

/** Whether decisions of leads below `close`, taken otherwise, would give this verdict. */
function couldBe(verdict: boolean, leads: readonly number[], close: number): boolean {
  return verdict ? leads.every(lead => lead > -close) : leads.some(lead => lead < close)
}
