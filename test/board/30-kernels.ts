import { availableParallelism } from 'node:os'
import { levels } from '../../scripts/build-native.ts'
import { loadNative } from '../../src/device/native.node.ts'
import { type Harness, obstacle, runHarness, sanitizers } from '../native/harness.ts'
import type { Row } from './row.ts'

const watched = [...sanitizers['addresses and undefined behaviour'], '-g']
/** As scripts/build-native.ts has them, since they decide how sums are rounded; _GNU_SOURCE as the sources say it. */
const arithmetic = ['-ffp-contract=fast', '-fno-math-errno', '-fno-trapping-math']
const kernels = ['linear', 'attention', 'experts'] as const
const linear = 'src/kernels/linear/linear.c'
const attention = 'src/kernels/attention'
const experts = 'src/kernels/experts'

interface Job {
  harness: Harness
  level: string
  flags: string[]
}

export const row: Row = {
  row: 30,
  title:
    'kernels and their runtime: odd sizes, sentinels, NaN rules, under ASan and UBSan, on each instruction set here',
  obstacle: () => obstacle(watched),
  async run({ long, part }) {
    const all = jobs().filter(({ harness }) => part === undefined || harness === part)
    // A planted bug shows on any instruction set that has its lines: the best one is enough.
    const queue = part === undefined ? [...all] : all.slice(0, 1)
    const failures: string[] = []
    let n = 0
    const worker = async () => {
      for (let job = queue.shift(); job; job = queue.shift()) {
        const { harness, level, flags } = job
        const ran = await runHarness(harness, [...watched, ...flags], { quick: !long })
        n += ran.cases
        failures.push(...ran.failures.map(failure => `${harness}, ${level}: ${failure}`))
      }
    }
    await Promise.all(Array.from({ length: availableParallelism() }, worker))
    return { n, failures }
  },
  planted: [],
}

/** The runtime has no instruction set of its own. */
function jobs(): Job[] {
  const native = loadNative()
  const here = typeof native === 'string' ? ['baseline'] : native.levels()
  const jobs: Job[] = here.flatMap(level =>
    kernels.map(harness => {
      const flags = level === 'baseline' ? [] : levels[process.arch][level].split(' ')
      if (level === 'amx') flags.push('-include', 'test/native/tiles.h')
      return { harness, level, flags: [...arithmetic, ...flags] }
    }),
  )
  return [...jobs, { harness: 'runtime', level: 'any', flags: ['-Wall', '-Wextra', '-Werror'] }]
}
