/** Values pushed by one side and awaited by the other, in order. */
export class AsyncQueue<T> implements AsyncIterator<T, undefined> {
  readonly #values: T[] = []
  #waiting: PromiseWithResolvers<IteratorResult<T, undefined>> | undefined
  #end: { error?: unknown } | undefined

  push(value: T): void {
    if (this.#end) return
    if (this.#waiting) this.#waiting.resolve({ done: false, value })
    else this.#values.push(value)
    this.#waiting = undefined
  }

  /** No more values; with an error, what has been pushed is still delivered before it. */
  end(error?: unknown): void {
    if (this.#end) return
    this.#end = error === undefined ? {} : { error }
    if (!this.#waiting) return
    if (error === undefined) this.#waiting.resolve({ done: true, value: undefined })
    else this.#waiting.reject(error)
    this.#waiting = undefined
  }

  /** One caller at a time. */
  next(): Promise<IteratorResult<T, undefined>> {
    if (this.#values.length > 0) return Promise.resolve({ done: false, value: this.#values.shift() as T })
    if (this.#end) {
      const { error } = this.#end
      return error === undefined ? Promise.resolve({ done: true, value: undefined }) : Promise.reject(error)
    }
    this.#waiting = Promise.withResolvers()
    return this.#waiting.promise
  }
}
