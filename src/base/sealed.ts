/** Where bytes go to be kept. What lies between two seals is a section. */
export interface SealedWriter {
  write(bytes: Uint8Array): Promise<void>
  /** Ends a section: whoever reads it will know whether it, and all before it, is what was written. */
  seal(): Promise<void>
}

/** Bytes that were kept, in the order in which they were written. */
export interface SealedReader {
  /** What they are called in messages. */
  readonly name: string
  /** Bytes behind those that were read, seals included. */
  readonly bytesLeft: number
  /** The next bytes, in memory of their own. Throws RequestError where there are fewer. */
  read(length: number): Promise<Uint8Array<ArrayBuffer>>
  /** Throws RequestError unless all that was read so far is what was written. */
  checkSeal(): Promise<void>
}

export const sealBytes = 32
