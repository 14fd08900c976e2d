/** `tutti/tokenizer`: o200k_harmony, text to token ids and back. */
export { loadTokenizer } from './load.ts'
export { StreamingDecoder } from './streaming-decoder.ts'
export type { Tokenizer } from './tokenizer.ts'
export { tokenizerFromJson } from './tokenizer-json.ts'
