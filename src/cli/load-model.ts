import { existsSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Model } from '../agent/model.ts'
import { RequestError } from '../base/errors.ts'
import { type DownloadSize, sizeOfDownload } from '../hub/download-size.ts'
import { readEnvironment } from '../hub/environment.ts'
import { findPulled, repositoryOf, splitName } from '../hub/hub-cache.ts'
import type { Shell } from './command.ts'
import { LineReader } from './line-reader.ts'
import { interruptible, type ModelValues, modelOptions, type Progress, showProgress } from './model-options.ts'
import { oneOf } from './options.ts'
import { commandFor, pullWithProgress } from './pull.ts'
import { dim, StatusLine, safeFor } from './terminal.ts'

const { model, ...others } = modelOptions

/** What chat and generate have in common. */
export const loadOptions = {
  model,
  layout: oneOf(
    ['root', 'original'],
    'of a model that was pulled: Hugging Face’s files or OpenAI’s: default root, where they are there',
  ),
  ...others,
}

type LoadValues = ModelValues & { layout?: 'root' | 'original' }

/**
 * Loads the model that the options name, with progress on a terminal; one that is not there is offered for download first,
 * where there is somebody to ask. Undefined if Ctrl-C stopped it.
 */
export async function loadModel(values: LoadValues, shell: Shell): Promise<Model | undefined> {
  const { model: name = 'nano', context: contextLength, device, threads, precision, cache } = values
  const path = await findModel(name, values.layout, shell)
  if (path === undefined) return undefined
  const status = new StatusLine(shell.stderr)
  const onProgress = (...progress: Progress) => status.show(`loading ${name}: ${showProgress(...progress)}`)
  const options = { contextLength, device, threads, precision, cache, keep: !values['no-keep'], onProgress }
  let loaded: Model | undefined
  try {
    await interruptible(shell, async signal => void (loaded = await shell.load(path, { ...options, signal })))
    return loaded
  } finally {
    status.clear()
  }
}

/** What to load: a path, or a name where loading itself knows it, or knows best why there is none. */
async function findModel(text: string, layout: LoadValues['layout'], shell: Shell): Promise<string | undefined> {
  const { name, revision } = splitName(text)
  const id = repositoryOf(name)
  if (id === undefined || existsSync(text) || (name.includes('/') && existsSync(dirname(name)))) {
    if (layout === undefined) return text
    throw new RequestError('--layout is for models that are pulled by name: give the folder of that layout as --model')
  }
  const environment = readEnvironment()
  const find = () => findPulled(text, environment, layout)
  const found = find()
  if (found !== undefined) return found
  const wish = { layout, revision }
  const { stdin, stderr } = shell
  if (environment.offline || !stdin.isTTY || !stderr.isTTY) {
    const offline = environment.offline ? ', without HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE' : ''
    const what = layout ? `${text} with the layout ${layout}` : text
    throw new RequestError(
      `${what} is not downloaded: run ${commandFor(name, wish)}${offline}, or give the folder or file of a model`,
      { param: 'model' },
    )
  }
  if (!(await offer(id, { name, ...wish }, shell))) return undefined
  return (await pullWithProgress(name, wish, shell)) && find()
}

interface Wish {
  name: string
  layout?: 'root' | 'original'
  revision?: string
}

/** Asks whether to download. Throws RequestError where the answer is no; false is Ctrl-C. */
async function offer(id: string, { name, ...wish }: Wish, shell: Shell): Promise<boolean> {
  const { stdin, stderr } = shell
  const size = await askSize(id, wish, shell)
  if (!size) return false
  if (size.missingBytes === 0) return true // it only has to be checked and named
  stderr.write(`${dim(safeFor(stderr, showOffer(id, size)), stderr)}\n`)
  const entry = await new LineReader(stdin, stderr).read('Download it now? [y/N] ')
  if (entry.type === 'interrupt') return false
  if (entry.type === 'line' && /^\s*y(es)?\s*$/i.test(entry.text)) return true
  throw new RequestError(`${name} is not there: ${commandFor(name, wish)} downloads it later`, { param: 'model' })
}

async function askSize(id: string, wish: Omit<Wish, 'name'>, shell: Shell): Promise<DownloadSize | undefined> {
  const { layout = 'root', revision = 'main' } = wish
  const status = new StatusLine(shell.stderr)
  let size: DownloadSize | undefined
  try {
    status.show(`${id} is not downloaded: asking the hub…`)
    await interruptible(shell, async signal => {
      const onRetry = (reason: string) => status.show(`${reason}: trying again`)
      size = await sizeOfDownload(id, { environment: readEnvironment(), revision, layout, signal, onRetry })
    })
    return size
  } finally {
    status.clear()
  }
}

function showOffer(id: string, { host, cache, totalBytes, missingBytes, freeBytes }: DownloadSize): string {
  const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`
  const left = missingBytes < totalBytes ? `, of which ${gigabytes(missingBytes)} are missing` : ''
  return `${id} is not downloaded: ${gigabytes(totalBytes)}${left}, from ${host} to ${cache} (${gigabytes(freeBytes)} free)`
}
