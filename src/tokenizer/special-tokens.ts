/** The control and reserved tokens of o200k_harmony. */

export const firstSpecial = 199998
/** Rows of the model's vocabulary. */
export const vocabSize = 201088
/** One more than the model has rows: openai-harmony knows a `<|reserved_201088|>`, and so do we, to read what it wrote. */
export const lastSpecial = vocabSize

const names = new Map([
  [199998, '<|startoftext|>'],
  [199999, '<|endoftext|>'],
  [200002, '<|return|>'],
  [200003, '<|constrain|>'],
  [200005, '<|channel|>'],
  [200006, '<|start|>'],
  [200007, '<|end|>'],
  [200008, '<|message|>'],
  [200012, '<|call|>'],
])

/** The name of special token `id`, which lies between `firstSpecial` and `lastSpecial`. */
export function specialName(id: number): string {
  return names.get(id) ?? `<|reserved_${id}|>`
}

/** The ids of all special tokens by those names. */
export function specialIds(): Map<string, number> {
  const ids = new Map<string, number>()
  for (let id = firstSpecial; id <= lastSpecial; id++) ids.set(specialName(id), id)
  return ids
}

/** Other names in use: tiktoken and the model's tokenizer.json say `<|endofprompt|>`, openai-harmony does not know it. */
export const aliases: ReadonlyMap<string, number> = new Map([['<|endofprompt|>', 200018]])
