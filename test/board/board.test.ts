import assert from 'node:assert/strict'
import { test } from 'node:test'
import { findRows, runPlanted, runRow } from '../../scripts/board.ts'

const options = { long: false, seed: 1 }
const rows = await findRows()

test('the board has rows', () => assert.ok(rows.length > 0))

for (const row of rows) {
  const skip = process.env.CI ? undefined : await row.obstacle?.() // in CI whatever it needs is installed
  test(`row ${row.row} of the board holds: ${row.title}`, { skip }, async () => {
    const { line, failures } = await runRow(row, options)
    assert.deepEqual(failures, [])
    assert.ok(line.n > 0, 'it ran no case')
  })
  test(`row ${row.row} has a planted bug`, () => assert.ok(row.planted.length > 0))
  for (const patch of row.planted) {
    test(`row ${row.row} finds a planted bug: ${patch.what ?? patch.replace.trim()}`, { skip }, async () => {
      const line = await runPlanted(row, patch, options)
      assert.ok(line.n > 0, 'it ran no case')
      assert.ok(line.failures > 0, 'it found nothing')
    })
  }
}
