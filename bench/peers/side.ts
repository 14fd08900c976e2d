import {
  decodePrompt,
  decodeTokens,
  memoryContext,
  prefillLength,
  prompt,
  residentGigabytes,
  secondsSince,
  startPrompt,
  type Values,
} from './measures.ts'

/** An engine that has loaded the model. */
export interface Side {
  readonly vocabSize: number
  /** Resolves when a prompt's first token is there; nothing of earlier prompts is reused. */
  firstToken(tokens: number[]): Promise<void>
  /** Resolves to the tokens a second behind the first. */
  generate(tokens: number[], count: number): Promise<number>
  /** Makes the cache as large as a context of so many tokens does. */
  fill(tokens: number[]): Promise<void>
}

/** Takes the measures of one group, each engine's in the same way. `started`: when the process was, in ms since 1970. */
export async function takeMeasures(
  names: readonly string[],
  started: number,
  open: (contextLength: number) => Promise<Side>,
): Promise<Values> {
  const longest = Math.max(512, ...names.map(name => prefillLength(name) ?? 0))
  const side = await open(names.includes('memory') ? memoryContext : longest + 256)
  const tokens = (length: number, seed: number) => prompt(length, seed, side.vocabSize)
  if (names.includes('start')) {
    await side.firstToken(tokens(startPrompt, 1))
    return { start: secondsSince(started) }
  }
  await side.generate(tokens(decodePrompt, 1), 8) // Whatever is done once is done.
  const values: Values = {}
  for (const name of names) {
    const length = prefillLength(name)
    if (name === 'decode') values[name] = await side.generate(tokens(decodePrompt, 2), decodeTokens)
    else if (length !== undefined) {
      const begun = performance.now()
      await side.firstToken(tokens(length, 3))
      values[name] = (1000 * length) / (performance.now() - begun)
    } else if (name === 'memory') {
      await side.fill(tokens(memoryContext - 1, 3))
      Object.assign(values, residentGigabytes())
    } else throw new Error(`${name} is not taken beside a peer`)
  }
  return values
}
