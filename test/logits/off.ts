/** Prints, case by case until one is out of bounds, how far the logits are off: what a planted mistake is judged by. */
import { caseNames, difference, openModel, paired, readGolden, runChunked } from './golden.ts'

for (const name of caseNames) {
  const golden = await readGolden(name)
  const model = await openModel(name, 'original')
  const tokens = [...golden.prompt, ...golden.continuation.slice(0, -1)]
  const { got, right } = paired(golden, await runChunked(model, tokens, [tokens.length]))
  const { maxAbs } = difference(got, right)
  console.log(`${name} ${maxAbs}`)
  if (!(maxAbs <= 5e-5)) process.exit(1)
}
