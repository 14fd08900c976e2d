/**
 * Words of a program for the addon, all of them doubles: an opcode, then its operands in this order. `x`, `out` and the
 * like are byte offsets in the arena, multiples of 64; `weight` and the like are ids of matrices, −1 for none.
 * The same list is in native/program.c.
 */
export const opcodes = {
  embedding: 1, // table out count tokens[count]
  rmsNorm: 2, // x tokens width weight epsilon out
  linear: 3, // x tokens weight bias out
  rope: 4, // qkv tokens heads kvHeads headDim concentration out positions[tokens] frequencies[headDim / 2]
  attention: 5, // qkv tokens sinks heads kvHeads headDim window(0: all) cacheType out numPieces, then for each piece (row count start first length capacity(0: unbounded) pages pages[pages])
  topK: 6, // logits tokens numExperts k experts weights
  experts: 7, // x tokens hidden inner experts weights k exact(0, 1) gateUp down gateUpBias downBias swigluLimit out
  add: 8, // x y length out
  rows: 9, // x width out count indices[count]
} as const
