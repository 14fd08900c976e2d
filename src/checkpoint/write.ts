/** What a header says of a tensor. */
export interface TensorDeclaration {
  readonly name: string
  readonly dataType: string
  readonly shape: readonly number[]
  readonly byteLength: number
}

/**
 * The first bytes of a safetensors file: length and header; the tensors' own bytes follow, in this order and without gaps.
 * Padded with spaces so that they begin at a multiple of 8, as the format asks of writers.
 */
export function safetensorsHeader(
  tensors: readonly TensorDeclaration[],
  metadata?: Readonly<Record<string, string>>,
): Uint8Array<ArrayBuffer> {
  const members: string[] = metadata ? [`"__metadata__":${JSON.stringify(metadata)}`] : []
  let offset = 0
  for (const { name, dataType, shape, byteLength } of tensors) {
    const entry = { dtype: dataType, shape, data_offsets: [offset, (offset += byteLength)] }
    members.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`)
  }
  const header = new TextEncoder().encode(`{${members.join(',')}}`)
  const padded = Math.ceil(header.length / 8) * 8
  const out = new Uint8Array(8 + padded).fill(0x20)
  out.set(header, 8)
  new DataView(out.buffer).setBigUint64(0, BigInt(padded), true)
  return out
}
