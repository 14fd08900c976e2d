/** Values pushed by one side and awaited by the other, in order. */
export class AsyncQueue<T> implements AsyncIterator<T, undefined> {
  #values: T[] = []
  #read = 0 // of #values; shifting a long array would copy it for each value
  #waiting: PromiseWithResolvers<IteratorResult<T, undefined>> | undefined
  #end: { error?: unknown } | undefined

  push(value: T): void {
    if (this.#end) return
    if (this.#waiting) this.#waiting.resolve({ done: false, value })
    else this.#values.push(value)
    this.#waiting = undefined
  }

  /** No more values. What has been pushed is still delivered. */
  end(): void {
    this.#finish({})
  }

  /** No more values: what has been pushed is still delivered, then `next` rejects with `error`. */
  fail(error: unknown): void {
    this.#finish({ error })
  }

  #finish(end: { error?: unknown }): void {
    if (this.#end) return
    this.#end = end
    if (this.#waiting) settle(end).then(this.#waiting.resolve, this.#waiting.reject)
    this.#waiting = undefined
  }

  /** One caller at a time. */
  next(): Promise<IteratorResult<T, undefined>> {
    if (this.#read < this.#values.length) {
      const value = this.#values[this.#read++]
      if (this.#read === this.#values.length) {
        this.#values = []
        this.#read = 0
      }
      return Promise.resolve({ done: false, value })
    }
    if (this.#end) return settle(this.#end)
    this.#waiting = Promise.withResolvers()
    return this.#waiting.promise
  }
}

function settle(end: { error?: unknown }): Promise<IteratorResult<never, undefined>> {
  return 'error' in end ? Promise.reject(end.error) : Promise.resolve({ done: true, value: undefined })
}
