/**
 * The ordinary tokens of o200k: 256 bytes and, in the order of their ids, what merging two earlier tokens gives.
 *
 * Why two ids a token are enough: byte pair encoding reaches a token from its own bytes through exactly one last pair,
 * and a stretch of a longer text that ends up as that pair has gone through the same merges as the bytes alone. So the
 * one pair found here stands for all ways to cut the token in two.
 */
import { CheckpointError } from '../base/errors.ts'
import { mergeShort } from './merge.ts'
import { createPairs, type Pairs } from './pairs.ts'

/** Ids 0 to 255 are single bytes; all later ids are merges. */
export const numBytes = 256

export interface Vocabulary {
  /** Ordinary tokens; their ids run from 0 to size − 1. */
  readonly size: number
  /** The bytes of token id are `bytes[offsets[id] .. offsets[id + 1]]`. */
  readonly bytes: Uint8Array
  readonly offsets: Int32Array
  /** The id of each single byte. [256] */
  readonly byteIds: Int32Array
  /** Which two tokens merge into which third. */
  readonly pairs: Pairs
}

const planes = 6 // little-endian 24-bit left ids, then right ids, one byte of all tokens after the other: deflates best

/**
 * Reads the packed vocabulary: the 256 bytes of ids 0 to 255, then for each later id the two ids it is merged from, as
 * six planes of bytes. Throws CheckpointError if the data are not that.
 */
export function unpackVocabulary(data: Uint8Array): Vocabulary {
  const numMerges = (data.length - numBytes) / planes
  if (!Number.isInteger(numMerges) || numMerges < 0)
    throw new CheckpointError(
      `The vocabulary has ${data.length} bytes, expected ${numBytes} + ${planes} for each merge.`,
    )
  const id = (plane: number, merge: number) => {
    const at = numBytes + plane * numMerges + merge
    return data[at] | (data[at + numMerges] << 8) | (data[at + 2 * numMerges] << 16)
  }
  const size = numBytes + numMerges
  const left = new Int32Array(size)
  const right = new Int32Array(size)
  const offsets = new Int32Array(size + 1)
  for (let token = 0; token < numBytes; token++) offsets[token + 1] = token + 1
  for (let token = numBytes; token < size; token++) {
    const l = (left[token] = id(0, token - numBytes))
    const r = (right[token] = id(3, token - numBytes))
    if (l >= token || r >= token)
      throw new CheckpointError(
        `The vocabulary merges token ${token} from ${l} and ${r}, which come later: it is damaged.`,
      )
    offsets[token + 1] = offsets[token] + (offsets[l + 1] - offsets[l]) + (offsets[r + 1] - offsets[r])
  }
  const bytes = new Uint8Array(offsets[size])
  bytes.set(data.subarray(0, numBytes))
  for (let token = numBytes, to = numBytes; token < size; token++) {
    for (let from = offsets[left[token]]; from < offsets[left[token] + 1]; from++) bytes[to++] = bytes[from]
    for (let from = offsets[right[token]]; from < offsets[right[token] + 1]; from++) bytes[to++] = bytes[from]
  }
  const pairs = createPairs(size)
  for (let token = numBytes; token < size; token++) pairs.add(left[token], right[token], token)
  return { size, bytes, offsets, byteIds: byteIdsOf(bytes), pairs }
}

/** The inverse of `unpackVocabulary`, for tokens given by their bytes in the order of their ids. */
export function packVocabulary(tokens: readonly Uint8Array[]): Uint8Array {
  const numMerges = tokens.length - numBytes
  const data = new Uint8Array(numBytes + planes * numMerges)
  const merges = findMerges(tokens)
  for (let token = 0; token < numBytes; token++) data[token] = tokens[token][0]
  for (let merge = 0; merge < numMerges; merge++) {
    for (let plane = 0; plane < planes; plane++) {
      const id = plane < 3 ? merges.left[numBytes + merge] : merges.right[numBytes + merge]
      data[numBytes + plane * numMerges + merge] = (id >> (8 * (plane % 3))) & 255
    }
  }
  return data
}

/**
 * The pair that each token is merged from: what byte pair encoding with all earlier tokens makes of its bytes.
 * Throws CheckpointError where that is not two tokens, or where the first 256 tokens are not the 256 bytes.
 */
function findMerges(tokens: readonly Uint8Array[]): { left: Int32Array; right: Int32Array } {
  const left = new Int32Array(tokens.length)
  const right = new Int32Array(tokens.length)
  const firstBytes = tokens.slice(0, numBytes)
  if (new Set(firstBytes.map(token => token[0])).size !== numBytes || firstBytes.some(token => token.length !== 1))
    throw new CheckpointError('Tokens 0 to 255 are not the 256 single bytes: this is not an o200k vocabulary.')
  const byteIds = byteIdsOf(Uint8Array.from(firstBytes, token => token[0]))
  const pairs = createPairs(tokens.length)
  const scratch = new Int32Array(256)
  for (let token = numBytes; token < tokens.length; token++) {
    const bytes = tokens[token]
    const ids = bytes.length <= scratch.length ? scratch : new Int32Array(bytes.length)
    for (let at = 0; at < bytes.length; at++) ids[at] = byteIds[bytes[at]]
    const parts: number[] = []
    mergeShort(pairs, ids, bytes.length, parts)
    if (parts.length !== 2)
      throw new CheckpointError(
        `Token ${token} is made of ${parts.length} earlier tokens (${parts}), expected two: this is not an o200k vocabulary.`,
      )
    left[token] = parts[0]
    right[token] = parts[1]
    pairs.add(parts[0], parts[1], token)
  }
  return { left, right }
}

function byteIdsOf(bytes: Uint8Array): Int32Array {
  const ids = new Int32Array(numBytes)
  for (let id = 0; id < numBytes; id++) ids[bytes[id]] = id
  return ids
}
