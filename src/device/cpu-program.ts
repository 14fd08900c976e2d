import type { Tensor } from '../kernels/tensor.ts'

/** A tensor of numbers that a pass computes. It has no place in memory until the pass is planned. */
export class Activation implements Tensor {
  readonly dataType = 'float32'
  readonly shape: readonly [rows: number, width: number]
  constructor(rows: number, width: number) {
    this.shape = [rows, width]
  }
  get length(): number {
    return this.shape[0] * this.shape[1]
  }
}

/** One op: its words, among which activations stand for their offsets. */
export interface Step {
  readonly words: readonly (number | Activation)[]
  readonly reads: readonly Activation[]
  readonly writes: readonly Activation[]
  /** The first of `writes` may take the memory of this one, if nobody reads it afterwards. */
  readonly inPlace?: Activation
  /** It also writes into a cache, so it is needed even if nobody reads its result. */
  readonly hasEffect?: boolean
}

/** What the addon runs: words, how much memory the activations take, and where the result lies in it. */
export interface Program {
  readonly words: Float64Array
  readonly arenaBytes: number
  readonly resultOffset: number
}

const alignment = 64 // bytes

/**
 * The steps that `result` needs, and those with an effect, as one program. Memory is given to an activation from the step
 * that writes it to the last that reads it, and used again afterwards.
 */
export function plan(steps: readonly Step[], result?: Activation): Program {
  const needed = neededSteps(steps, result)
  const lastUse = new Map<Activation, number>()
  for (const [n, { reads, writes }] of needed.entries()) for (const x of [...writes, ...reads]) lastUse.set(x, n)
  if (result) lastUse.set(result, needed.length)

  const arena = new Arena()
  const offsets = new Map<Activation, number>()
  const words: number[] = []
  for (const [n, step] of needed.entries()) {
    const { inPlace, writes, reads } = step
    const isFree = inPlace !== undefined && lastUse.get(inPlace) === n && reads.filter(x => x === inPlace).length === 1
    for (const [i, x] of writes.entries()) {
      const bytes = bytesOf(x)
      offsets.set(x, i === 0 && isFree && bytes === bytesOf(inPlace) ? offsets.get(inPlace)! : arena.take(bytes))
    }
    for (const word of step.words) words.push(typeof word === 'number' ? word : offsets.get(word)!)
    for (const x of new Set([...reads, ...writes])) {
      const taken = isFree && x === inPlace && offsets.get(writes[0]) === offsets.get(inPlace)
      if (lastUse.get(x) === n && !taken) arena.give(offsets.get(x)!, bytesOf(x))
    }
  }
  return {
    words: Float64Array.from(words),
    arenaBytes: arena.size,
    resultOffset: result ? offsets.get(result)! : 0,
  }
}

/** Backwards from the result: a step nobody needs is left out. */
function neededSteps(steps: readonly Step[], result?: Activation): Step[] {
  const wanted = new Set<Activation>(result ? [result] : [])
  const needed: Step[] = []
  for (const step of steps.toReversed()) {
    if (!step.hasEffect && !step.writes.some(x => wanted.has(x))) continue
    for (const x of step.reads) wanted.add(x)
    needed.push(step)
  }
  return needed.reverse()
}

function bytesOf(x: Activation): number {
  return Math.ceil(Math.max(1, x.length * 4) / alignment) * alignment
}

/** Places in memory, the first that fits; a pass has a dozen at a time. */
class Arena {
  size = 0
  /** By falling offset. */
  readonly #holes: { offset: number; bytes: number }[] = []

  take(bytes: number): number {
    const hole = this.#holes.findLast(hole => hole.bytes >= bytes)
    if (hole) {
      const { offset } = hole
      hole.offset += bytes
      hole.bytes -= bytes
      if (hole.bytes === 0) this.#holes.splice(this.#holes.indexOf(hole), 1)
      return offset
    }
    // The last hole may reach to the end of the arena: what is missing is added behind it.
    const last = this.#holes[0]
    if (last && last.offset + last.bytes === this.size) {
      this.#holes.shift()
      this.size = last.offset + bytes
      return last.offset
    }
    this.size += bytes
    return this.size - bytes
  }

  give(offset: number, bytes: number): void {
    const at = this.#holes.findIndex(hole => hole.offset < offset)
    const index = at < 0 ? this.#holes.length : at
    this.#holes.splice(index, 0, { offset, bytes })
    this.#merge(index - 1)
    this.#merge(index)
  }

  /** Joins the hole at `index` with the next lower one, where they touch. */
  #merge(index: number): void {
    const [upper, lower] = [this.#holes[index], this.#holes[index + 1]]
    if (index < 0 || !lower || lower.offset + lower.bytes !== upper.offset) return
    lower.bytes += upper.bytes
    this.#holes.splice(index, 1)
  }
}
