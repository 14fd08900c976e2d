import { splitName } from '../hub/hub-cache.ts'
import type { PullProgress } from '../hub/progress.ts'
import { type Pulled, type PullOptions, pull as pullModel } from '../hub/pull.ts'
import { defineCommand, exitCodes, type Shell } from './command.ts'
import { interruptible } from './model-options.ts'
import { oneOf, text } from './options.ts'
import { StatusLine, safeFor } from './terminal.ts'

export const pull = defineCommand({
  name: 'pull',
  summary: 'download a model, or go on where a download stopped',
  argument: 'NAME',
  about: [
    'Downloads gpt-oss-20b, gpt-oss-120b or any OWNER/NAME of this architecture from Hugging Face, into the cache that ' +
      'its Python libraries use; what they have downloaded is not fetched again. Every file is hashed, and the model ' +
      'counts as there only when all of it is right. Prints the folder with the model.',
    'Ctrl-C, a lost network or a crash cost little: the same command goes on.',
    'HF_HOME moves the cache, HF_TOKEN opens private models, HF_ENDPOINT names another hub, HF_HUB_OFFLINE=1 keeps ' +
      'from asking any; HTTPS_PROXY and NO_PROXY are respected.',
  ],
  options: {
    layout: oneOf(['root', 'original'], 'take Hugging Face’s files or OpenAI’s, the same weights: default root'),
    revision: text('REV', 'a branch, tag or commit: default main; NAME@REV says the same'),
  },
  examples: [
    ['tutti pull gpt-oss-20b', 'downloads 13.8 GB'],
    ['tutti chat --model="$(tutti pull gpt-oss-20b)"', 'downloads it if need be, and talks with it'],
  ],
  async run({ values, positionals }, shell) {
    const [name] = positionals
    if (name === undefined || positionals.length > 1) {
      shell.stderr.write('tutti: give one model: tutti pull gpt-oss-20b (see tutti pull --help)\n')
      return exitCodes.usage
    }
    const { name: model, revision = values.revision } = splitName(name)
    const pulled = await pullWithProgress(model, { ...values, revision }, shell)
    if (!pulled) return exitCodes.interrupted
    shell.stdout.write(`${pulled.path}\n`)
    return exitCodes.success
  },
})

type Wish = Pick<PullOptions, 'layout' | 'revision'>

/** Downloads a model and tells stderr of it; undefined if Ctrl-C stopped it. */
export async function pullWithProgress(name: string, wish: Wish, shell: Shell): Promise<Pulled | undefined> {
  const status = new StatusLine(shell.stderr)
  const say = (line: string) => {
    status.clear()
    shell.stderr.write(`${safeFor(shell.stderr, line)}\n`)
  }
  if (shell.stderr.isTTY) status.show(`pulling ${name}: asking the hub…`)
  else say(`pulling ${name}`)
  let pulled: Pulled | undefined
  try {
    const done = await interruptible(shell, async signal => {
      pulled = await pullModel(name, { ...wish, ...tellers(name, say, status), signal })
    })
    if (!done || !pulled) {
      say(`stopped; ${commandFor(name, wish)} goes on where it was`)
      return undefined
    }
  } finally {
    status.clear()
  }
  if (pulled.notice) say(pulled.notice)
  say(`${pulled.id} at ${pulled.commit.slice(0, 8)} is there and whole${pulled.notice ? '' : showBytes(pulled)}`)
  return pulled
}

/** What is told while it goes on: on a terminal in its last line, in a pipe what matters, once. */
function tellers(name: string, say: (line: string) => void, status: StatusLine): PullOptions {
  let trouble = ''
  let isPlanned = false
  return {
    onPlan(missing, total) {
      isPlanned = true
      if (missing > 0 && missing < total) {
        say(`going on: ${gigabytes(total - missing)} of ${gigabytes(total)} GB are there already`)
      }
    },
    onProgress(progress) {
      if (isPlanned) status.show(`pulling ${name}: ${showPull(progress)}`)
    },
    onWait: pid => say(`another tutti (process ${pid}) downloads the same file: waiting for it`),
    onRetry(reason, ms) {
      if (reason !== trouble) say(`${reason}; trying again (Ctrl-C stops)`)
      trouble = reason
      status.show(`pulling ${name}: trying again in ${Math.round(ms / 1000)} s`)
    },
  }
}

/** The command line that goes on with a download. */
export function commandFor(name: string, { layout, revision }: Wish): string {
  const options = [layout && layout !== 'root' && `--layout=${layout}`, revision && `--revision=${revision}`]
  return ['tutti pull', ...options.filter(Boolean), name].join(' ')
}

/** `4.12 of 13.79 GB, 98 MB/s, 99 s left` */
export function showPull(progress: PullProgress): string {
  const { step, file, doneBytes, totalBytes, checkedBytes, bytesPerSecond, secondsLeft } = progress
  const done = step === 'downloading' ? doneBytes : checkedBytes
  const speed = bytesPerSecond && `${Math.round(bytesPerSecond / 1e5) / 10} MB/s`
  const left = secondsLeft && `${showSeconds(Math.ceil(secondsLeft))} left`
  const what = step === 'checking' ? `checking ${file}` : ''
  return [what, `${gigabytes(done)} of ${gigabytes(totalBytes)} GB`, speed, left].filter(Boolean).join(', ')
}

function showSeconds(seconds: number): string {
  if (seconds < 100) return `${seconds} s`
  const minutes = Math.ceil(seconds / 60)
  return minutes < 100 ? `${minutes} min` : `${Math.ceil(minutes / 60)} h`
}

const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(2)

function showBytes({ bytes, fetchedBytes }: Pulled): string {
  if (fetchedBytes === 0) return `: ${gigabytes(bytes)} GB, nothing had to be downloaded`
  return `: ${gigabytes(bytes)} GB, ${gigabytes(fetchedBytes)} of them downloaded now`
}
