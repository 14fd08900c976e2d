/** A process of row 4: downloads a model, and ends itself by SIGKILL before one of its calls of the file system. */
import { closeSync, openSync, writeSync } from 'node:fs'
import { seededRandom } from '../../src/base/random.ts'
import { readEnvironment } from '../../src/hub/environment.ts'
import { pull } from '../../src/hub/pull.ts'
import { type DiskCall, watchDisk } from './disk.ts'
import { PowerCut } from './power-cut.ts'
import { recordFolderOf } from './trial.ts'

export interface DownloadRun {
  home: string
  endpoint: string
  partBytes: number
  /** How many calls it does before its end; none where others end it. */
  numCalls?: number
  /** What was not synced gets lost, as drawn from this seed. */
  powerCut?: number
}

const { home, endpoint, partBytes, numCalls = Infinity, powerCut } = JSON.parse(process.argv[2]) as DownloadRun
const power = new PowerCut()
let n = 0
watchDisk(home, {
  before(call) {
    if (n++ >= numCalls) end(call)
    if (powerCut !== undefined) power.before(call)
  },
  after: call => power.after(call),
})
const environment = readEnvironment({ HF_HOME: home, HF_ENDPOINT: endpoint })
await pull('gpt-oss-20b', { partBytes, environment, recordFolder: recordFolderOf(home) })

function end(call: DiskCall): void {
  if (powerCut !== undefined) power.cut(seededRandom(powerCut))
  else if (call.name === 'file.write') writeHalf(call)
  process.kill(process.pid, 'SIGKILL')
}

/** The last write got half of its bytes to the file. */
function writeHalf({ path, args }: DiskCall): void {
  const [bytes, offset, length, position] = args as [Buffer, number, number, number]
  const file = openSync(path, 'r+')
  writeSync(file, bytes, offset, Math.floor(length / 2), position)
  closeSync(file)
}
