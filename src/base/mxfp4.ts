/** The sixteen FP4 (E2M1) values by code; bit 3 is the sign. */
export const fp4Values = Float64Array.of(0, 0.5, 1, 1.5, 2, 3, 4, 6, -0, -0.5, -1, -1.5, -2, -3, -4, -6)

/** Values that share one scale. */
export const mxfp4GroupSize = 32

/** 2^(scale − 127) by scale byte; 255 is NaN by the OCP standard. */
const scaleFactors = Float64Array.from({ length: 256 }, (_, scale) => (scale === 255 ? Number.NaN : 2 ** (scale - 127)))

/**
 * Decodes out.length / 32 groups from `group` on: byte i of a group's 16 holds value 2i in its low nibble and 2i + 1 in
 * its high one. Every value is exact in float32, and but for scales 253 and 254 (large codes overflow) in bfloat16.
 * Source: OCP Microscaling Formats (MX) v1.0.
 */
export function decodeMxfp4Row(blocks: Uint8Array, scales: Uint8Array, group: number, out: Float32Array): void {
  for (let at = 0, byte = group * 16; at < out.length; group++) {
    const factor = scaleFactors[scales[group]]
    for (const end = byte + 16; byte < end; byte++, at += 2) {
      const pair = blocks[byte]
      out[at] = fp4Values[pair & 15] * factor
      out[at + 1] = fp4Values[pair >> 4] * factor
    }
  }
}
