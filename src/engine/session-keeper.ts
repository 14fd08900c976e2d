import { RequestError } from '../base/errors.ts'
import type { SealedReader } from '../base/sealed.ts'
import type { RestoreEvent, RestoreRequest, SaveEvent, SaveRequest } from './engine.ts'
import { checkRequest } from './request.ts'
import {
  loadSession,
  type OnCopied,
  readSaved,
  type SavedSession,
  type SessionBinding,
  type SessionFiles,
  saveSession,
  sizeIsRight,
  whyForeign,
} from './saved-session.ts'
import type { Scheduler } from './scheduler.ts'
import type { Session } from './session.ts'

export interface KeeperOptions {
  files: SessionFiles
  /** What the model is called. */
  model: string
  /** `Device.cacheFormat` */
  cacheFormat: string
  vocabSize: number
  contextLength: number
}

interface ToWrite {
  path: string
  note: string
}

/** Takes sessions from a scheduler to files, and back. */
export class SessionKeeper {
  readonly #scheduler: Scheduler
  readonly #options: KeeperOptions

  constructor(scheduler: Scheduler, options: KeeperOptions) {
    this.#scheduler = scheduler
    this.#options = options
  }

  /** Runs what is missing of a prompt and writes all that is held of it. */
  async save(request: SaveRequest, emit: (event: SaveEvent) => void, signal: AbortSignal): Promise<void> {
    const { path, note = '', ...prompt } = request
    checkRequest(prompt, this.#options)
    checkText('path', path)
    checkText('note', note)
    const file = { path, note }
    let writing: Promise<void> | undefined
    const job = this.#scheduler.submit({ ...prompt, maxTokens: 0 }, event => {
      if (event.type === 'queued' || event.type === 'prefill') emit(event)
      // Now, while it is still the job's: a fork stays as it is whatever becomes of that.
      else if (event.type === 'end' && event.reason !== 'dropped')
        writing = this.#write(job.session!.fork(prompt.tokens.length), file, emit, signal)
    })
    const cancel = () => this.#scheduler.cancel(job)
    signal.addEventListener('abort', cancel)
    try {
      await job.done
      await writing
      signal.throwIfAborted()
      if (!writing) throw new RequestError('saving made way for other requests: save again', { status: 503 })
    } finally {
      signal.removeEventListener('abort', cancel)
    }
  }

  async #write(session: Session, file: ToWrite, emit: (event: SaveEvent) => void, signal: AbortSignal): Promise<void> {
    let bytes = 0
    const onCopied = (done: number, total: number) => {
      signal.throwIfAborted()
      emit({ type: 'copied', done, total })
      bytes = done
    }
    try {
      await this.#scheduler.hold(session, 0, () => this.#writeFile(session, file, onCopied))
      emit({ type: 'end', tokens: session.tokens.length, bytes })
    } finally {
      session[Symbol.dispose]()
    }
  }

  async #writeFile(session: Session, { path, note }: ToWrite, onCopied: OnCopied): Promise<void> {
    const binding = await this.#binding()
    const file = await this.#options.files.create(path)
    try {
      await saveSession(session, { binding, note }, file, onCopied)
      await file.finish()
    } catch (error) {
      await file.abandon()
      throw error
    }
  }

  async #binding(): Promise<SessionBinding> {
    const { files, model, cacheFormat: cache } = this.#options
    return { model, weights: await files.weights(), cache }
  }

  /** Keeps what a file holds for later prompts of an owner. */
  async restore(request: RestoreRequest, emit: (event: RestoreEvent) => void, signal: AbortSignal): Promise<void> {
    const { path, owner } = request
    checkText('path', path)
    const file = await this.#options.files.open(path)
    try {
      const saved = await readSaved(file, this.#options)
      const { tokens, note } = saved
      checkRequest({ tokens, owner }, this.#options)
      const onCopied = (done: number, total: number) => {
        signal.throwIfAborted()
        emit({ type: 'copied', done, total })
      }
      const why =
        whyForeign(file, saved.binding, await this.#binding()) ?? (await this.#load(saved, owner, file, onCopied))
      emit({
        type: 'end',
        tokens,
        ...(note && { note }),
        ...(why && { refused: `${why}: its ${tokens.length} tokens have to run again` }),
      })
    } finally {
      await file.close()
    }
  }

  /** Why keys and values could not be used, if they could not. */
  async #load(saved: SavedSession, owner: string, from: SealedReader, onCopied: OnCopied): Promise<string | undefined> {
    const session = this.#scheduler.newSession()
    if (!sizeIsRight(session, saved, from)) return `${from.name} is damaged (it is cut, or too long)`
    try {
      const fill = () => loadSession(session, saved, from, onCopied)
      if (await this.#scheduler.adopt(owner, session, saved.tokens.length, fill)) return undefined
      return `there is no room for what ${from.name} holds beside what is running`
    } catch (error) {
      if (error instanceof RequestError) return error.message
      throw error
    }
  }
}

function checkText(param: string, value: unknown): void {
  if (typeof value !== 'string') throw new RequestError(`${param} is ${typeof value}; it must be a string`, { param })
}
