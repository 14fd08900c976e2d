import { cacheFolder } from '../base/cache-folder.node.ts'
import { CheckpointError, RequestError } from '../base/errors.ts'
import { readEnvironment } from '../hub/environment.ts'
import { type CachedModel, findModels, listModels, showBytes, type Verification, verifyModels } from '../hub/models.ts'
import { defineCommand, exitCodes, type Shell } from './command.ts'
import { interruptible } from './model-options.ts'
import { flag } from './options.ts'
import { showPull } from './pull.ts'
import { StatusLine, safeFor } from './terminal.ts'

export const models = defineCommand({
  name: 'models',
  summary: 'the models that are there, and whether they are whole',
  argument: '[NAME]',
  about: [
    'Lists the models in the cache that tutti shares with Hugging Face’s Python libraries, whoever downloaded them, and the ' +
      'embedded one: size on the disk, layout, commit and the branches that stand for it, when its files were last hashed, ' +
      'and when it was last loaded.',
    'With --verify every file is hashed: those that were pulled must have the hash that was recorded then, others the one ' +
      'that their name in the cache says. The exit code is 1 if one is damaged. Loading does without: it compares sizes, ' +
      'times and inodes with the record, and hashes a file again only where these differ.',
    'With --json stdout has one JSON object a line: {"name", "id", "path", "commit", "revisions", "layouts", "bytes", ' +
      '"verified", "damaged", "lastUsed", "isPulled"}, and with --verify "numFiles", "bad" and "unknown" in it.',
  ],
  options: {
    verify: flag('hash every file, and say which are damaged'),
    json: flag('print JSON, one model a line'),
  },
  examples: [
    ['tutti models', 'lists what is there'],
    ['tutti models --verify gpt-oss-20b', 'hashes all files of one model'],
  ],
  async run({ values, positionals }, shell) {
    const [name] = positionals
    if (positionals.length > 1) {
      shell.stderr.write('tutti: give one model, or none for all (see tutti models --help)\n')
      return exitCodes.usage
    }
    const options = { environment: readEnvironment(), recordFolder: cacheFolder() }
    const all = await listModels(options)
    const chosen = name === undefined ? all : findModels(all, name)
    if (name !== undefined && chosen.length === 0) refuseName(name, options.environment.cache)
    if (!values.verify) {
      print(shell, chosen, { json: values.json, embedded: name === undefined })
      return exitCodes.success
    }
    const found = await verify(shell, chosen, options)
    if (!found) return exitCodes.interrupted
    for (const verification of found) {
      const { model, ...rest } = verification
      const line = values.json ? JSON.stringify({ ...model, ...rest }) : showVerification(verification)
      shell.stdout.write(`${safeFor(shell.stdout, line)}\n`)
    }
    if (found.length === 0) shell.stderr.write(`there is no model in ${options.environment.cache}\n`)
    const bad = found.flatMap(({ bad }) => bad)
    if (bad.length === 0) return exitCodes.success
    const cures = [...new Set(bad.map(({ cure }) => cure))]
    throw new CheckpointError(
      `${count(bad.length, 'file is damaged', 'files are damaged')}: ${cures.join(', ')} fetches what is wrong again`,
    )
  },
})

function refuseName(name: string, cache: string): never {
  if (isEmbedded(name)) throw new RequestError(`${name} is a part of tutti: its package is what vouches for it`)
  throw new RequestError(`there is no model ${JSON.stringify(name)} in ${cache}: see tutti models`)
}

/** Whether it is the model that comes with tutti. */
export const isEmbedded = (name: string) => name === 'nano' || name === 'gpt-oss-nano'

/** Undefined if Ctrl-C stopped it. */
async function verify(
  shell: Shell,
  chosen: readonly CachedModel[],
  options: Parameters<typeof listModels>[0],
): Promise<Verification[] | undefined> {
  const status = new StatusLine(shell.stderr)
  const bytes = chosen.reduce((sum, model) => sum + model.bytes, 0)
  if (!shell.stderr.isTTY && chosen.length > 0) shell.stderr.write(`hashing ${showBytes(bytes)}\n`)
  let found: Verification[] | undefined
  try {
    await interruptible(shell, async signal => {
      found = await verifyModels(chosen, { ...options, signal, onProgress: it => status.show(showPull(it)) })
    })
    return found
  } finally {
    status.clear()
  }
}

function showVerification({ model, numFiles, bad, unknown }: Verification): string {
  const { name, commit, bytes } = model
  if (commit === undefined) return `${name}: not finished; tutti pull ${name} goes on`
  const files = `${count(numFiles, 'file', 'files')}, ${showBytes(bytes)}`
  const begin = `${name} at ${commit.slice(0, 8)}: ${files}`
  if (bad.length === 0 && unknown.length === 0) return `${begin}: all right`
  return [
    `${begin}: ${bad.length > 0 ? `${bad.length} damaged` : 'nothing wrong was found'}`,
    ...bad.map(({ path, problem }) => `  ${path} ${problem}`),
    ...unknown.map(
      path => `  ${path} could not be compared: nobody recorded its hash; tutti pull ${name} asks the hub`,
    ),
  ].join('\n')
}

function print(
  shell: Shell,
  chosen: readonly CachedModel[],
  { json, embedded }: { json?: boolean; embedded: boolean },
): void {
  if (json) {
    for (const model of chosen) shell.stdout.write(`${JSON.stringify(model)}\n`)
    return
  }
  const rows = [
    ['name', 'size', 'layout', 'commit', 'verified', 'last used'],
    ...chosen.map(showModel),
    ...(embedded ? [['gpt-oss-nano', '', 'embedded', '', '', '']] : []),
  ]
  const widths = rows[0].map((_, i) => Math.max(...rows.map(row => row[i].length)))
  for (const row of rows) {
    const cells = row.map((cell, i) => (i === 1 ? cell.padStart(widths[i]) : cell.padEnd(widths[i])))
    shell.stdout.write(`${safeFor(shell.stdout, cells.join('  ').trimEnd())}\n`)
  }
  if (chosen.length === 0) shell.stderr.write('tutti pull gpt-oss-20b downloads a model (13.8 GB)\n')
}

function showModel(model: CachedModel): string[] {
  const { name, bytes, layouts, commit, revisions, verified, damaged, lastUsed } = model
  const stands = revisions.length > 0 ? ` ${revisions.join(', ')}` : ''
  return [
    name,
    layouts.length > 0 ? showBytes(bytes) : '',
    layouts.join(' + ') || 'not finished',
    commit ? commit.slice(0, 8) + stands : '',
    damaged.length > 0 ? 'damaged' : verified ? showTime(verified) : commit ? 'never' : '',
    lastUsed ? showTime(lastUsed) : commit ? 'never' : '',
  ]
}

/** `2026-10-02 14:03`, in local time. */
function showTime(iso: string): string {
  const date = new Date(iso)
  const two = (value: number) => String(value).padStart(2, '0')
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join('-')
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}`
}

const count = (number: number, one: string, many: string): string => `${number} ${number === 1 ? one : many}`
