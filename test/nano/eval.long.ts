import assert from 'node:assert/strict'
import { it } from 'node:test'
import { documents } from './agreement.ts'
import { leadsOf, openNano } from './teacher-forced.ts'

const documentsPerSkill = 20
const decided = 2e-4 // logits: ours and the training model's, both float32, differ by up to 5e-5 each, so a lead by 1e-4

it('gpt-oss-nano gets right what its card says it does, turn by turn', async t => {
  const model = await openNano()
  const skills = Map.groupBy(documents, ({ skill }) => skill)
  const tooClose: string[] = []
  const wrong: string[] = []
  for (const [skill, all] of skills) {
    const counts = { turns: 0, right: 0, answerRight: 0 }
    for (const [n, { ids, turns }] of all.slice(0, documentsPerSkill).entries()) {
      const leads = await leadsOf(model, ids, turns)
      for (const [i, turn] of turns.entries()) {
        const answer = turn.answer.flatMap(([start, end]) => [
          ...leads[i].subarray(start - turn.start, end - turn.start),
        ])
        const verdicts = [
          { what: 'right', recorded: turn.right, leads: [...leads[i]] },
          { what: 'answerRight', recorded: turn.answerRight, leads: answer },
        ]
        counts.turns++
        if (isRight(leads[i])) counts.right++
        if (isRight(answer)) counts.answerRight++
        for (const { what, recorded, leads } of verdicts) {
          if (isRight(leads) === recorded) continue
          const where = `${skill} ${n}, turn ${i}: ${what} is recorded as ${recorded}; least lead ${Math.min(...leads)}`
          if (couldBe(recorded, leads)) tooClose.push(where)
          else wrong.push(where)
        }
      }
    }
    const percent = (count: number) => `${((100 * count) / counts.turns).toFixed(1)} %`.padStart(7)
    t.diagnostic(
      `${skill.padEnd(10)} turns right ${percent(counts.right)}, answers right ${percent(counts.answerRight)} of ${counts.turns}`,
    )
  }
  model.close()
  for (const line of tooClose) t.diagnostic(`closer than rounding: ${line}`)
  assert.deepEqual(wrong, [])
  assert.equal(skills.size, 17)
})

/** Whether greedy generation gives every token. Rows of unused ids are equal, so a lead of nothing counts. */
function isRight(leads: Iterable<number>): boolean {
  return [...leads].every(lead => lead >= 0)
}

/** Whether decisions closer than rounding, taken otherwise, would give this verdict. */
function couldBe(verdict: boolean, leads: readonly number[]): boolean {
  return verdict ? leads.every(lead => lead > -decided) : leads.some(lead => lead < decided)
}
