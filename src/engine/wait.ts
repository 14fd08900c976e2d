/** What is left of a request: prompt tokens to run, and tokens to generate. */
export interface Remaining {
  prompt: number
  answer: number
}

/** How fast things went lately; zeros where nothing has been measured. */
export class Pace {
  /** Milliseconds for a prompt's token, and between two tokens of a stream. */
  promptMs = 0
  stepMs = 0
  /** Tokens of an answer. */
  answerTokens = 0

  ranPrompt(tokens: number, ms: number): void {
    this.promptMs = follow(this.promptMs, ms / tokens)
  }

  stepped(ms: number): void {
    this.stepMs = follow(this.stepMs, ms)
  }

  answered(tokens: number): void {
    this.answerTokens = follow(this.answerTokens, tokens)
  }

  /**
   * Milliseconds until the last of `waiting` begins, of which `places` run together and `running` do already; undefined
   * while nothing has been measured.
   */
  wait(running: readonly Remaining[], waiting: readonly Remaining[], places: number): number | undefined {
    if (this.promptMs === 0 || this.stepMs === 0) return undefined
    // Prompts run one after the other, answers side by side: a place is free when both of its request are done.
    let promptsMs = 0
    const free: number[] = Array.from({ length: Math.max(0, places - running.length) }, () => 0)
    for (const { prompt, answer } of running) {
      promptsMs += prompt * this.promptMs
      free.push(promptsMs + answer * this.stepMs)
    }
    let begins = 0
    for (const { prompt, answer } of waiting) {
      free.sort((a, b) => a - b)
      begins = free[0]
      promptsMs = Math.max(promptsMs, begins) + prompt * this.promptMs
      free[0] = promptsMs + answer * this.stepMs
    }
    return begins
  }
}

/** A mean in which what is older counts less. */
function follow(mean: number, value: number): number {
  return mean === 0 ? value : mean + (value - mean) / 8
}
