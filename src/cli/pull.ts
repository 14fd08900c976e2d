import type { PullProgress } from '../hub/progress.ts'
import { type Pulled, pull as pullModel } from '../hub/pull.ts'
import { defineCommand, exitCodes } from './command.ts'
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
    revision: text('REV', 'a branch, tag or commit: default main'),
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
        pulled = await pullModel(name, {
          ...values,
          signal,
          onProgress: progress => status.show(`pulling ${name}: ${showPull(progress)}`),
          onWait: pid => say(`another tutti (process ${pid}) downloads the same file: waiting for it`),
        })
      })
      if (!done || !pulled) {
        say(`stopped; tutti pull ${name} goes on where it was`)
        return exitCodes.interrupted
      }
    } finally {
      status.clear()
    }
    if (pulled.notice) say(pulled.notice)
    say(`${pulled.id} at ${pulled.commit.slice(0, 8)} is there and whole${pulled.notice ? '' : showBytes(pulled)}`)
    shell.stdout.write(`${pulled.path}\n`)
    return exitCodes.success
  },
})

/** `4.12 of 13.79 GB, 98 MB/s, 99 s left` */
export function showPull(progress: PullProgress): string {
  const { step, file, doneBytes, totalBytes, checkedBytes, bytesPerSecond, secondsLeft } = progress
  const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(2)
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

function showBytes({ bytes, fetchedBytes }: Pulled): string {
  const gigabytes = (bytes / 1e9).toFixed(2)
  if (fetchedBytes === 0) return `: ${gigabytes} GB, nothing had to be downloaded`
  return `: ${gigabytes} GB, ${(fetchedBytes / 1e9).toFixed(2)} of them downloaded now`
}
