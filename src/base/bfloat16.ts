const bits = new Uint32Array(1)
const float = new Float32Array(bits.buffer)

/** float32 → the bits of the nearest bfloat16, ties to even. NaN stays NaN (quiet), too large becomes infinite. */
export function toBfloat16(value: number): number {
  float[0] = value
  const word = bits[0]
  if ((word & 0x7fffffff) > 0x7f800000) return (word >>> 16) | 0x40
  return (word + 0x7fff + ((word >>> 16) & 1)) >>> 16
}

/** The number that these bfloat16 bits stand for; exact. */
export function fromBfloat16(word: number): number {
  bits[0] = word << 16
  return float[0]
}

/** float32 numbers → bfloat16 bits, as `toBfloat16`. */
export function encodeBfloat16(values: Float32Array): Uint16Array<ArrayBuffer> {
  const out = new Uint16Array(values.length)
  for (let i = 0; i < values.length; i++) out[i] = toBfloat16(values[i])
  return out
}

/** bfloat16 bits → float32, exact. */
export function decodeBfloat16(words: Uint16Array): Float32Array<ArrayBuffer> {
  const out = new Uint32Array(words.length)
  for (let i = 0; i < words.length; i++) out[i] = words[i] << 16
  return new Float32Array(out.buffer)
}
