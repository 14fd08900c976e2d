import { dot, type Mxfp4Rows, RowReader, type StoredRows } from '../matrix.ref.ts'

const alpha = 1.702 // of the sigmoid in gpt-oss's SwiGLU

/** The matrices of one layer's experts as the reference keeps them. */
export interface ExpertRows {
  gateUp: Mxfp4Rows // [numExperts, 2 innerSize, hiddenSize]
  gateUpBias: StoredRows // [numExperts, 2 innerSize]
  down: Mxfp4Rows // [numExperts, hiddenSize, innerSize]
  downBias: StoredRows // [numExperts, hiddenSize]
}

/**
 * Σ over each token's k experts of weight · (down(swiglu(gateUp(x) + bias)) + bias), x [T, hiddenSize] → the same.
 * Tokens are grouped by expert, so that each row is decoded once; each token's sum runs over its experts in their order,
 * so that it does not depend on the batch.
 */
export function experts(
  x: Float32Array,
  chosen: Int32Array,
  weights: Float32Array,
  rows: ExpertRows,
  sizes: { hiddenSize: number; innerSize: number; k: number; swigluLimit: number },
): Float32Array {
  const { hiddenSize, innerSize, k, swigluLimit } = sizes
  const outputs = new Float32Array(chosen.length * hiddenSize) // [T · k, hiddenSize]
  const gateUpReader = new RowReader(hiddenSize)
  const downReader = new RowReader(innerSize)
  const gateUpBias = new RowReader(2 * innerSize)
  const downBias = new RowReader(hiddenSize)
  for (const [expert, slots] of slotsByExpert(chosen)) {
    const inner = new Float32Array(slots.length * 2 * innerSize) // gate, linear, gate, linear, …
    const bias = gateUpBias.read(rows.gateUpBias, expert)
    for (let r = 0; r < 2 * innerSize; r++) {
      const row = gateUpReader.read(rows.gateUp, expert * 2 * innerSize + r)
      for (const [i, slot] of slots.entries()) {
        inner[i * 2 * innerSize + r] = dot(x, Math.floor(slot / k) * hiddenSize, row, 0, hiddenSize) + bias[r]
      }
    }
    const activated = swiglu(inner, swigluLimit) // [slots, innerSize]
    const biasDown = downBias.read(rows.downBias, expert)
    for (let r = 0; r < hiddenSize; r++) {
      const row = downReader.read(rows.down, expert * hiddenSize + r)
      for (const [i, slot] of slots.entries()) {
        outputs[slot * hiddenSize + r] = dot(activated, i * innerSize, row, 0, innerSize) + biasDown[r]
      }
    }
  }
  return weightedSums(outputs, weights, hiddenSize, k)
}

/** expert → the places in `chosen` [T · k] that name it */
function slotsByExpert(chosen: Int32Array): Map<number, number[]> {
  const slots = new Map<number, number[]>()
  for (const [slot, expert] of chosen.entries()) {
    const list = slots.get(expert)
    if (list) list.push(slot)
    else slots.set(expert, [slot])
  }
  return slots
}

/** gate · sigmoid(1.702 · gate) · (linear + 1), with gate ≤ limit and |linear| ≤ limit; pairs are interleaved. */
export function swiglu(pairs: Float32Array, limit: number): Float32Array {
  const out = new Float32Array(pairs.length / 2)
  for (let i = 0; i < out.length; i++) {
    const gate = Math.min(pairs[2 * i], limit)
    const linear = Math.max(-limit, Math.min(pairs[2 * i + 1], limit))
    out[i] = (gate / (1 + Math.exp(-alpha * gate))) * (linear + 1)
  }
  return out
}

/** outputs [T · k, width], weights [T · k] → [T, width] */
function weightedSums(outputs: Float32Array, weights: Float32Array, width: number, k: number): Float32Array {
  const out = new Float32Array(outputs.length / k)
  for (let at = 0; at < out.length; at++) {
    const t = Math.floor(at / width)
    const column = at % width
    let sum = 0
    for (let slot = t * k; slot < (t + 1) * k; slot++) sum += weights[slot] * outputs[slot * width + column]
    out[at] = sum
  }
  return out
}
