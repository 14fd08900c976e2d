import type { Model, RespondOptions } from '../agent/model.ts'
import type { TurnEvent } from '../agent/turn.ts'
import type { Message, ReasoningEffort } from '../harmony/message.ts'

const maxUnknownCalls = 3 // a turn: a model that keeps calling what does not exist is stopped

/** A conversation at the terminal: what was said so far, and the next turn of it. */
export class Dialogue {
  readonly #model: Model
  readonly #onDropped: (turns: number) => void
  #messages: Message[] = []
  options: RespondOptions

  /** `onDropped` is told when the oldest turns had to leave. */
  constructor(model: Model, options: RespondOptions, onDropped: (turns: number) => void) {
    this.#model = model
    this.options = options
    this.#onDropped = onDropped
  }

  get messages(): readonly Message[] {
    return this.#messages
  }

  reset(): void {
    this.#messages = []
  }

  /** Goes on with a conversation that has its own instructions; those that the options give take their place. */
  resume(messages: readonly Message[]): void {
    const { reasoning, developer } = this.options
    const replaced = [...(reasoning === undefined ? [] : ['system']), ...(developer === undefined ? [] : ['developer'])]
    this.#messages = messages.filter(({ role }) => !replaced.includes(role))
  }

  set reasoning(effort: ReasoningEffort) {
    this.options = { ...this.options, reasoning: effort }
    this.resume(this.#messages)
  }

  /**
   * The model's answer to `question`. A cancelled answer stays in the conversation as far as it was said, and a question
   * that got no word of one, or that did not fit, does not.
   */
  async *ask(question: string, signal: AbortSignal): AsyncGenerator<TurnEvent> {
    const before = this.#messages
    let said = ''
    try {
      this.#messages = [...before, { role: 'user', content: question }]
      for (let calls = 0; ; calls++) {
        let called: string | undefined
        this.#fit()
        for await (const event of this.#model.respond(this.#messages, { ...this.options, signal })) {
          if (event.type === 'final') said += event.text
          if (event.type === 'call' && event.call.complete) called = event.call.recipient
          if (event.type === 'end') this.#messages = [...this.#messages, ...event.messages]
          yield event
        }
        said = ''
        if (called === undefined) return
        this.#messages = [...this.#messages, noSuchTool(called)]
        if (calls === maxUnknownCalls) return
      }
    } catch (error) {
      if (said === '') this.#messages = before
      else this.#messages = [...this.#messages, { role: 'assistant', channel: 'final', content: said }]
      throw error
    }
  }

  #fit(): void {
    const { messages, droppedTurns } = this.#model.fit(this.#messages, this.options)
    this.#messages = messages
    if (droppedTurns > 0) this.#onDropped(droppedTurns)
  }
}

/** A chat offers no tools, but models know some by heart. */
function noSuchTool(name: string): Message {
  const content = `There is no tool ${name} here: answer without tools.`
  return { role: 'tool', name, recipient: 'assistant', channel: 'commentary', content }
}
