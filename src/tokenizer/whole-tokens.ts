import type { Vocabulary } from './vocabulary.ts'

/** Finds the token that is exactly a stretch of bytes; −1 if there is none. */
export type FindToken = (bytes: Uint8Array, start: number, end: number) => number

const idBits = 18
const idMask = (1 << idBits) - 1
const slotBits = 19 // 524,288 slots: 38 % full with o200k

/** A hash table of all tokens by their bytes. A slot holds id + 1 and above it 14 bits of the hash. */
export function createFindToken({ size, bytes: pool, offsets }: Vocabulary): FindToken {
  const slots = new Int32Array(1 << slotBits)
  const slotMask = slots.length - 1
  let longest = 0
  for (let id = 0; id < size; id++) {
    const hash = hashOf(pool, offsets[id], offsets[id + 1])
    let slot = hash & slotMask
    while (slots[slot] !== 0) slot = (slot + 1) & slotMask
    slots[slot] = (hash & ~idMask) | (id + 1)
    longest = Math.max(longest, offsets[id + 1] - offsets[id])
  }

  return (bytes, start, end) => {
    const length = end - start
    if (length > longest) return -1
    const hash = hashOf(bytes, start, end)
    for (let slot = hash & slotMask; slots[slot] !== 0; slot = (slot + 1) & slotMask) {
      if (((slots[slot] ^ hash) & ~idMask) !== 0) continue
      const id = (slots[slot] & idMask) - 1
      const from = offsets[id]
      if (offsets[id + 1] - from !== length) continue
      let same = 0
      while (same < length && pool[from + same] === bytes[start + same]) same++
      if (same === length) return id
    }
    return -1
  }
}

/** FNV-1a, its bits spread once more. */
function hashOf(bytes: Uint8Array, start: number, end: number): number {
  let hash = 0x811c9dc5
  for (let at = start; at < end; at++) hash = Math.imul(hash ^ bytes[at], 0x01000193)
  return Math.imul(hash ^ (hash >>> 15), 0x85ebca6b)
}
