import { existsSync } from 'node:fs'
import { cacheFolder } from '../base/cache-folder.node.ts'
import { DeviceError, RequestError } from '../base/errors.ts'
import { readEnvironment } from '../hub/environment.ts'
import { nameOf, RepositoryCache, repositoryOf } from '../hub/hub-cache.ts'
import { showBytes } from '../hub/models.ts'
import { planRemoval, type Removal, remove } from '../hub/remove.ts'
import { defineCommand, exitCodes } from './command.ts'
import { LineReader } from './line-reader.ts'
import { isEmbedded } from './models.ts'
import { flag } from './options.ts'
import { safeFor } from './terminal.ts'

export const rm = defineCommand({
  name: 'rm',
  summary: 'remove a model that tutti pulled',
  argument: 'NAME',
  about: [
    'Removes what tutti’s own records say that it pulled, in every revision: the snapshots, the branches that stand for ' +
      'them, blobs that no other snapshot links to, what an interrupted download left, and the files that tutti made of the ' +
      'model in its own cache folder. What Python’s libraries downloaded stays; what is left is listed, with the reason.',
    'It shows what goes and asks, in a terminal; elsewhere it needs --yes.',
  ],
  options: {
    'dry-run': flag('only say what would be removed'),
    yes: flag('do not ask'),
  },
  examples: [
    ['tutti rm gpt-oss-20b', 'removes it, after asking'],
    ['tutti rm --dry-run gpt-oss-20b', 'says how much that would free'],
  ],
  async run({ values, positionals }, shell) {
    const [name] = positionals
    if (name === undefined || positionals.length > 1) {
      shell.stderr.write('tutti: give one model: tutti rm gpt-oss-20b (see tutti rm --help)\n')
      return exitCodes.usage
    }
    const plan = await planRemoval(find(name), recordFolder())
    if (plan.snapshots.length === 0 && plan.blobs.length === 0) refuse(name, plan)
    const print = (stream: NodeJS.WriteStream, text: string) => stream.write(`${safeFor(stream, text)}\n`)
    if (values['dry-run']) {
      print(shell.stdout, show(plan, 'would remove'))
      return exitCodes.success
    }
    if (!values.yes) {
      if (!shell.stdin.isTTY)
        throw new RequestError('there is no terminal to ask in: add --yes, or --dry-run to look first')
      print(shell.stderr, show(plan, 'removes'))
      const answer = await new LineReader(shell.stdin, shell.stderr).read('Remove it? [y/N] ')
      if (answer.type !== 'line' || !/^\s*y(es)?\s*$/i.test(answer.text)) {
        shell.stderr.write('nothing was removed\n')
        return answer.type === 'interrupt' ? exitCodes.interrupted : exitCodes.failure
      }
    }
    await remove(plan)
    print(shell.stdout, values.yes ? show(plan, 'removed') : `removed ${showBytes(sum(plan))}`)
    return exitCodes.success
  },
})

function find(name: string): RepositoryCache {
  if (isEmbedded(name)) throw new RequestError(`${name} is a part of tutti, and stays with it`)
  const { cache } = readEnvironment()
  const id = repositoryOf(name)
  const repository = id === undefined ? undefined : new RepositoryCache(cache, id)
  if (repository && existsSync(repository.root)) return repository
  throw new RequestError(`there is no model ${JSON.stringify(name)} in ${cache}: see tutti models`)
}

function recordFolder(): string {
  const folder = cacheFolder()
  if (folder !== undefined) return folder
  throw new DeviceError(
    'nothing is known of what tutti pulled: this user has no home; set TUTTI_CACHE_DIR as it was then',
  )
}

function refuse(name: string, { left }: Removal): never {
  const why = left.length > 0 ? `, and leaves ${left.join('; ')}` : ''
  throw new RequestError(`tutti removes what it pulled itself, which is nothing of ${name}${why}`)
}

const sum = ({ bytes }: Removal): number => bytes.model + bytes.unfinished + bytes.derived

/** What goes, and what stays. */
function show(plan: Removal, verb: string): string {
  const { cache, snapshots, bytes, derived, left } = plan
  const gone = snapshots.map(({ commit, files, isWhole, revisions }) => {
    const stands = revisions.length > 0 ? ` (${revisions.join(', ')})` : ''
    return `${isWhole ? 'snapshot' : 'of snapshot'} ${commit.slice(0, 8)}${stands}: ${files.length} ${files.length === 1 ? 'file' : 'files'}`
  })
  return [
    `${verb} ${showBytes(sum(plan))} of ${nameOf(cache.id)}`,
    ...gone.map(line => `  ${line}`),
    ...(bytes.unfinished > 0 ? [`  an unfinished download: ${showBytes(bytes.unfinished)}`] : []),
    ...(derived.length > 0 ? [`  what tutti made of it: ${showBytes(bytes.derived)}`] : []),
    ...left.map(line => `  left: ${line}`),
  ].join('\n')
}
