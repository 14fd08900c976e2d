import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type HubEnvironment, readEnvironment } from '../../src/hub/environment.ts'
import { type Pulled, type PullOptions, pull } from '../../src/hub/pull.ts'
import { type DiskCall, watchDisk } from './disk.ts'
import { isNamed, type ModelFiles, unfinished, wrongFile } from './model.ts'
import { HubServer } from './server.ts'

export const partBytes = 2048

/** A hub with a model, and a cache for it on this disk. */
export interface Trial {
  readonly home: string
  readonly files: ModelFiles
  readonly commit: string
  readonly server: HubServer
  readonly environment: HubEnvironment
  /** Files of this process that bore a final name at any time while their bytes were not right. */
  readonly misnamed: string[]
  /** Without waiting after failures, and whatever the room on the disk. */
  pull(options?: PullOptions): Promise<Pulled>
}

/** Calls `use` with a new trial, and cleans up behind it. `home`: the folder of the cache, which is to be empty. */
export async function withTrial<T>(files: ModelFiles, use: (trial: Trial) => Promise<T>, home = newHome()): Promise<T> {
  const server = await HubServer.start({ files })
  const misnamed: string[] = []
  const unwatch = watchDisk(home, {
    after: call => misnamed.push(...misnames(call, { files, commit: server.commit })),
  })
  const environment = readEnvironment({ HF_HOME: home, HF_ENDPOINT: server.url })
  const onWait = (pid: number) => {
    throw new Error(`it waits for process ${pid}, and nobody is there`)
  }
  const settings = {
    partBytes,
    onWait,
    spareBytes: 0,
    environment,
    recordFolder: recordFolderOf(home),
    wait: async () => {},
  }
  try {
    return await use({
      ...{ home, files, server, environment, misnamed, commit: server.commit },
      pull: options => pull(server.id, { ...settings, ...options }),
    })
  } finally {
    unwatch()
    await server.close()
    rmSync(home, { recursive: true })
  }
}

/** tutti's own cache folder in a trial. */
export const recordFolderOf = (home: string): string => join(home, 'tutti')

/** Downloads the model, and gives what is wrong then. */
export async function pullWhole(trial: Trial): Promise<string[]> {
  const error = await trial.pull().then(
    () => [],
    error => [`it fails: ${error?.stack ?? error}`],
  )
  return error.length > 0 ? error : [...unfinished(trial.home, trial), ...trial.misnamed]
}

const newHome = () => mkdtempSync(join(tmpdir(), 'tutti-trial-'))

function misnames(call: DiskCall, hub: { files: ModelFiles; commit: string }): string[] {
  const { name, path, args } = call
  if (!isNamed(path)) return []
  if (['rename', 'link', 'symlink', 'copyFile', 'writeFile'].includes(name)) {
    return [wrongFile(path, hub)].filter(text => text !== undefined)
  }
  const writes = name === 'file.write' || (name === 'open' && /[wa+]/.test(String(args[1] ?? 'r')))
  return writes ? [`${path} is written under its final name`] : []
}
