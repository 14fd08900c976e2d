/** Which two tokens merge into which third: a hash table with open addressing in one Int32Array. */
export interface Pairs {
  add(left: number, right: number, merged: number): void
  /** The token that two tokens merge into, −1 if they do not. */
  get(left: number, right: number): number
}

// An id has 18 bits. A slot is two words: left and 14 bits of right, then 4 bits of right and the merged id plus one.
const idBits = 18
const numBytes = 256
const idMask = (1 << idBits) - 1
const maxSize = 1 << idBits

/** An empty table for at most `size` pairs of ids below `size`. Throws RangeError above 262,144. */
export function createPairs(size: number): Pairs {
  if (size > maxSize) throw new RangeError(`a table of ${size} pairs was asked for, at most ${maxSize} fit`)
  const numSlots = 2 ** Math.ceil(Math.log2(2 * size + 2)) // at most half full
  const mask = numSlots - 1
  const slots = new Int32Array(2 * numSlots)
  const ofBytes = new Int32Array(numBytes * numBytes) // every piece begins with these: one look, no hash

  /** The slot that holds the pair, or the free one where it would stand. */
  function find(left: number, right: number): number {
    const first = left | (right << idBits)
    const second = right >> (32 - idBits)
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)
    hash ^= hash >>> 15
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const word = slots[2 * slot + 1]
      if (word === 0 || (slots[2 * slot] === first && word >> idBits === second)) return slot
    }
  }

  return {
    add(left, right, merged) {
      const slot = find(left, right)
      slots[2 * slot] = left | (right << idBits)
      slots[2 * slot + 1] = ((right >> (32 - idBits)) << idBits) | (merged + 1)
      if ((left | right) < numBytes) ofBytes[left * numBytes + right] = merged + 1
    },
    get: (left, right) =>
      ((left | right) < numBytes ? ofBytes[left * numBytes + right] : slots[2 * find(left, right) + 1] & idMask) - 1,
  }
}
