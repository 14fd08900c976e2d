import { seededRandom } from '../../src/base/random.ts'
import { loadTokenizer } from '../../src/tokenizer/load.ts'
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts'
import type { Row } from './row.ts'

const megabyte = 1_000_000 // of UTF-8, the largest input
const probes = [1 / 32, 1 / 16, 1 / 8, 1 / 4] // parts of it that come first, lest a slow family takes hours
const maxMs = 1000
const doublings = 6
const maxGrowth = 2.6 // of the time when the text doubles: the mean of all doublings, for at one or two a cache overflows
const maxTries = 12 // the best time of several counts

/** Text that a family repeats or draws, until it has the length asked for. */
type Family = [name: string, unit: string | ((random: () => number) => string), allowedSpecial?: 'all']

const families: Family[] = [
  ['one small letter', 'a'],
  ['one capital', 'A'],
  ['one digit', '7'],
  ['spaces', ' '],
  ['newlines', '\n'],
  ['ideographic spaces', '\u3000'],
  ['spaces and newlines by turns', ' \n'],
  ['hyphens', '-'],
  ['slashes', '/'],
  ['contractions', "'s"],
  ['NUL', '\0'],
  ['one ideograph', '日'],
  ['one emoji', '🙂'],
  ['joined emoji', '👩\u200d🚀\u200d'],
  ['combining marks', '\u0301'],
  ['capitals and small letters by turns', 'aA'],
  ['letters without case before capitals', '日A'],
  ['lone surrogates', '\ud800'],
  ['the longest token', '                                                                                '],
  ['a word of random small letters', random => String.fromCharCode(97 + Math.floor(26 * random()))],
  ['a word of two letters', random => (random() < 0.5 ? 'a' : 'b')],
  ['random ideographs', random => String.fromCharCode(0x4e00 + Math.floor(0x5000 * random()))],
  ['beginnings of control tokens', '<|', 'all'],
  ['control tokens', '<|start|>', 'all'],
]

const split = 'src/tokenizer/split.ts'

export const row: Row = {
  row: 13,
  title: `tokenizer denial of service: ${families.length} families of a megabyte`,
  async run({ seed }) {
    const tokenizer = await loadTokenizer()
    tokenizer.encode('warm up '.repeat(10_000))
    const failures: string[] = []
    let n = 0
    for (const family of families) {
      n++
      const failure = check(tokenizer, family, seed)
      if (failure) failures.push(failure)
      if (failures.length >= 3) break // each takes long
    }
    return { n, failures }
  },
  planted: [
    {
      file: 'src/tokenizer/merge.ts',
      search: 'const maxShort = 100',
      replace: 'const maxShort = Number.POSITIVE_INFINITY',
      what: 'long pieces are merged by the quadratic algorithm',
    },
    {
      file: split,
      search: 'if (at === bytes.length) return at',
      replace: 'if (at === bytes.length) return start + 1',
      what: 'white space at the end is looked at again from every position',
    },
    {
      file: split,
      search: 'while ((symbols >> classes[at]) & 1) at++',
      replace: 'while ((symbols >> classes.slice(at)[0]) & 1) at++',
      what: 'the rest of the text is copied for each symbol',
    },
  ],
}

/** What is wrong with the times of a family; undefined if nothing is. */
function check(tokenizer: Tokenizer, [name, unit, allowedSpecial]: Family, seed: number): string | undefined {
  const measure = (bytes: number) => {
    const text = makeText(unit, bytes, seed)
    return () => {
      const before = process.cpuUsage()
      tokenizer.encode(text, { allowedSpecial })
      const { user, system } = process.cpuUsage(before)
      return (user + system) / 1000 // not the clock: others use the machine too
    }
  }
  for (const part of probes) {
    const ms = measure(part * megabyte)()
    if (ms > 4 * part * maxMs) return `${name}: ${part * megabyte} bytes take ${ms.toFixed(0)} ms`
  }
  const encodeWhole = measure(megabyte)
  const encodePart = measure(megabyte / 2 ** doublings)
  let whole = Number.POSITIVE_INFINITY
  let part = Number.POSITIVE_INFINITY
  let growth = 0
  for (let tries = 0; tries < maxTries; tries++) {
    for (let again = 0; again < 16; again++) part = Math.min(part, encodePart())
    whole = Math.min(whole, encodeWhole())
    growth = (whole / part) ** (1 / doublings)
    if (whole <= maxMs && growth <= maxGrowth) return undefined
  }
  return `${name}: a megabyte takes ${whole.toFixed(0)} ms, and twice the text ${growth.toFixed(2)} times as long`
}

function makeText(unit: Family[1], bytes: number, seed: number): string {
  const random = seededRandom(seed)
  const length = new TextEncoder().encode(typeof unit === 'string' ? unit : unit(random)).length
  if (typeof unit === 'string') return unit.repeat(Math.floor(bytes / length))
  return Array.from({ length: Math.floor(bytes / length) }, () => unit(random)).join('')
}
