import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

declare const handle: unique symbol
/** A device of the addon: its threads, its mappings, its memory. Opaque, and of one thread of JavaScript. */
export type NativeDevice = { readonly [handle]: true }

/** Bytes of a mapped file, or bytes that are copied. */
export type NativeBytes = { readonly map: number; readonly begin: number; readonly length: number } | Uint8Array

/**
 * What the addon (native/addon.c) offers. Ids are small integers of one device; a wrong id, size or word of a program
 * throws. Nothing here waits for work: what takes long is given to the device's threads and resolves later, in order but
 * for what is urgent.
 */
export interface Native {
  /** Instruction sets that are built in and that this CPU and system have, the best first. */
  levels(): string[]
  /** `threads`: how many, or 0 for as many as this process may use. `pin`: to cores of their own, where it has them alone. */
  open(options: { level: string; threads: number; pin: boolean }): NativeDevice
  describe(device: NativeDevice): {
    level: string
    threads: number
    pinned: boolean
    hugeBytes: number
    privateBytes: number
  }
  /** Maps a file for reading, until the device is closed. The same path again gives the same id. */
  map(device: NativeDevice, path: string): { map: number; length: number }
  /** Brings mapped bytes into memory, in order. Resolves when they are there, or to nothing when `stop`ped. */
  populate(device: NativeDevice, map: number, begin: number, length: number): NativePass<void>
  /** Few of these mapped bytes will be read, here and there: the system need read nothing ahead of them. */
  sparse(device: NativeDevice, map: number, begin: number, length: number): void
  /**
   * A matrix or vector of one or more parts, used where it lies. A vector [cols] is one row. Q8: one part, as `readCodes`
   * gave it; it is copied where it does not lie at a multiple of 64.
   */
  matrix(
    device: NativeDevice,
    dataType: 'F32' | 'BF16' | 'Q8',
    rows: readonly number[],
    cols: number,
    parts: readonly NativeBytes[],
  ): number
  mxfp4(
    device: NativeDevice,
    experts: number,
    rows: number,
    cols: number,
    blocks: NativeBytes,
    scales: NativeBytes,
  ): number
  /** A matrix of 8 bits made from one of F32 or BF16. */
  quantize(device: NativeDevice, matrix: number): NativePass<number>
  /** Copies bytes of a matrix of 8 bits from byte `begin` on, as many as `into` holds. */
  readCodes(device: NativeDevice, matrix: number, begin: number, into: Uint8Array): void
  /** 53 bits of a matrix of 8 bits that differ where its bytes do. */
  checksum(device: NativeDevice, matrix: number): NativePass<number>
  /** The first scale of an MXFP4 matrix that is no number (its byte is 255), or −1. */
  findNan(device: NativeDevice, matrix: number): NativePass<number>
  /** Lets go of a matrix and of what was copied for it. */
  release(device: NativeDevice, matrix: number): void
  /** Bytes of a cache page (64 tokens, keys and values of all heads). */
  pageBytes(device: NativeDevice, cacheType: number, numKeyValueHeads: number, headDim: number): number
  /** A page of that many bytes; what it holds is undefined. */
  newPage(device: NativeDevice, bytes: number): number
  freePage(device: NativeDevice, page: number): void
  /** At once, or behind all that is in flight where that may write the one or use the other. */
  copyPage(device: NativeDevice, from: number, to: number): void
  /**
   * Copies tokens of a page, from slot `begin` on and as many as `into` holds, in an order of bytes that is no page's: each
   * takes a 64th of the page's. False, for now, where a pass in flight may be writing the page.
   */
  readTokens(
    device: NativeDevice,
    page: number,
    cacheType: number,
    numKeyValueHeads: number,
    headDim: number,
    begin: number,
    into: Uint8Array,
  ): boolean
  /** The way back, into a page that no pass in flight uses. */
  writeTokens(
    device: NativeDevice,
    page: number,
    cacheType: number,
    numKeyValueHeads: number,
    headDim: number,
    begin: number,
    from: Uint8Array,
  ): void
  /**
   * Runs a program (device/cpu-program.ts) after those submitted before it. Resolves to `resultLength` float32 at
   * `resultOffset` of the arena, or to undefined when stopped; rejects where memory ran out.
   * An `urgent` one goes before all that is not, and interrupts what runs and is not; but where something in flight
   * writes a page that it uses, or uses one that it writes, it is like any other.
   */
  submit(
    device: NativeDevice,
    program: Float64Array,
    arenaBytes: number,
    resultOffset: number,
    resultLength: number,
    urgent?: boolean,
  ): NativePass<Float32Array>
  /** Makes a pass end as soon as its threads look up, or before it begins. One that has ended is left alone. */
  stop(device: NativeDevice, pass: number): void
  /** Reads bytes once with all threads; resolves to seconds. `huge`: anonymous memory in huge or in 4 KiB pages. */
  readMemory(
    device: NativeDevice,
    what: { map: number; begin: number; length: number } | { length: number; huge: boolean },
  ): NativePass<number>
  /** Stops what runs, waits for the threads and frees everything. Also happens when the JavaScript environment ends. */
  close(device: NativeDevice): void
}

export interface NativePass<T> {
  readonly pass: number
  readonly done: Promise<T | undefined>
}

const path = fileURLToPath(
  new URL(`../../native/build/${process.platform}-${process.arch}/tutti.node`, import.meta.url),
)

/** The addon, or why there is none. */
export function loadNative(): Native | string {
  if (!existsSync(path)) return `${path} is not built`
  try {
    return createRequire(import.meta.url)(path) as Native
  } catch (error) {
    return `${path} cannot be loaded: ${error instanceof Error ? error.message : error}`
  }
}
