import { availableParallelism } from 'node:os'
import { levels } from '../../scripts/build-native.ts'
import { loadNative } from '../../src/device/native.node.ts'
import { type Harness, obstacle, runHarness, sanitizers } from '../native/harness.ts'
import type { Row } from './row.ts'

const watched = sanitizers['addresses and undefined behaviour']
/** As scripts/build-native.ts has them, since they decide how sums are rounded. */
const arithmetic = ['-ffp-contract=fast', '-fno-math-errno', '-fno-trapping-math']
const kernels = ['linear', 'attention', 'experts'] as const

interface Job {
  harness: Harness
  level: string
  flags: string[]
}

export const row: Row = {
  row: 30,
  title: 'kernels and their runtime: odd sizes, sentinels, NaN rules, under ASan and UBSan',
  obstacle: () => obstacle(watched),
  async run({ long, part }) {
    const queue = jobs(long).filter(({ harness }) => part === undefined || harness === part)
    const failures: string[] = []
    let n = 0
    const worker = async () => {
      for (let job = queue.shift(); job; job = queue.shift()) {
        const { harness, level, flags } = job
        const ran = await runHarness(harness, [...watched, ...flags])
        n += ran.cases
        failures.push(...ran.failures.map(failure => `${harness}, ${level}: ${failure}`))
      }
    }
    await Promise.all(Array.from({ length: availableParallelism() }, worker))
    return { n, failures }
  },
  planted: [
    {
      part: 'linear',
      file: 'src/kernels/linear/linear.c',
      search: 'count = linear_min(Q8_ROWS, a->weight->rows - row);',
      replace: 'count = linear_min(Q8_ROWS, a->weight->rows - row + 1);',
      what: 'a row that the last panel lacks is written',
    },
    {
      part: 'linear',
      file: 'src/kernels/linear/linear.c',
      search: 'for (int64_t i = k; i < cols; i++) {',
      replace: 'for (int64_t i = k; i <= cols; i++) {',
      what: 'the tail of a row is read one column too far',
    },
    {
      part: 'linear',
      file: 'src/kernels/linear/q8.h',
      search: 'return bits >= 0x7f800000 ? NAN : usable',
      replace: 'return usable',
      what: 'rounding makes numbers of what is not finite',
    },
    {
      part: 'experts',
      file: 'src/kernels/experts/mxfp4.h',
      search: 'if (count == 4) return dword_at(p);',
      replace: 'if (count > 0) return dword_at(p);',
      what: 'the scales of the last groups are read as four, however many there are',
    },
    {
      part: 'experts',
      file: 'src/kernels/experts/exact.h',
      search: ': 0x00200000 << scale;',
      replace: ': 0x3f800000;',
      what: 'a scale of 0 is taken for 1',
    },
    {
      part: 'experts',
      file: 'src/kernels/experts/activations.h',
      search: ': numbers ? 0 : NAN;',
      replace: ': 0;',
      what: 'an expert swallows NaN',
    },
    {
      part: 'attention',
      file: 'src/kernels/attention/attention.c',
      search: 'const int64_t place = p % t->piece->capacity, next',
      replace: 'const int64_t place = p % (t->piece->capacity - 1), next',
      what: 'rings are read as if they were one position shorter',
    },
    {
      part: 'attention',
      file: 'src/kernels/simd.h',
      search: 'return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;',
      replace: 'return bits >> 16;',
      what: 'bfloat16 is cut off instead of rounded',
    },
    {
      part: 'runtime',
      file: 'native/memory.c',
      search: '(uint32_t)num_pages - 1 - i;',
      replace: '(uint32_t)num_pages - i;',
      what: 'the last page of a slab lies behind it',
    },
  ],
}

/** On the best instruction set that this machine has, or on all of them. The runtime has none of its own. */
function jobs(all: boolean): Job[] {
  const native = loadNative()
  const here = typeof native === 'string' ? ['baseline'] : native.levels()
  const jobs: Job[] = (all ? here : here.slice(0, 1)).flatMap(level =>
    kernels.map(harness => {
      const flags = level === 'baseline' ? [] : levels[process.arch][level].split(' ')
      if (level === 'amx') flags.push('-include', 'test/native/tiles.h')
      return { harness, level, flags: [...arithmetic, ...flags] }
    }),
  )
  return [...jobs, { harness: 'runtime', level: 'any', flags: ['-Wall', '-Wextra', '-Werror'] }]
}
