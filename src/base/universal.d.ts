// What Node and browsers share beyond the language. The core compiles against this list alone, so a use of
// anything that only one of them has is a type error.
declare class TextEncoder {
  encode(text?: string): Uint8Array<ArrayBuffer>
  encodeInto(text: string, bytes: Uint8Array): { read: number; written: number }
}
declare class TextDecoder {
  constructor(encoding?: string, options?: { fatal?: boolean; ignoreBOM?: boolean })
  decode(bytes?: ArrayBufferView | ArrayBuffer, options?: { stream?: boolean }): string
}
declare class AbortSignal {
  readonly aborted: boolean
  readonly reason: unknown
  throwIfAborted(): void
  addEventListener(type: 'abort', listener: () => void, options?: { once?: boolean }): void
  removeEventListener(type: 'abort', listener: () => void): void
}
declare class AbortController {
  readonly signal: AbortSignal
  abort(reason?: unknown): void
}
declare class DOMException extends Error {
  constructor(message?: string, name?: string)
}
declare const performance: { now(): number }
declare const crypto: { getRandomValues<T extends ArrayBufferView>(array: T): T; randomUUID(): string }
declare function queueMicrotask(callback: () => void): void
declare function setTimeout(callback: () => void, ms?: number): unknown
declare function clearTimeout(timer: unknown): void
declare function structuredClone<T>(value: T): T
declare class MessageChannel {
  readonly port1: unknown
  readonly port2: unknown
}
