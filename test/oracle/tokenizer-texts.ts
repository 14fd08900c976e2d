/** Random texts of many kinds to compare tokenizers by. The same seed gives the same texts. */
import { readFileSync } from 'node:fs'
import { characters, readGoldens } from '../../src/tokenizer/testing.ts'
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts'

type Random = () => number
const repository = new URL('../../', import.meta.url)

export function createTexts(tokenizer: Tokenizer, random: Random): { kind: string; draw(): string }[] {
  const goldens = readGoldens().encode
  const prose = goldens.filter(({ group }) => group === 'languages').map(({ text }) => text)
  const code = goldens.filter(({ group }) => group === 'code' || group === 'links').map(({ text }) => text)
  const declarations = readFileSync(new URL('node_modules/@types/node/fs.d.ts', repository), 'utf8')
  const han = (): string => String.fromCharCode(0x4e00 + Math.floor(0x51a5 * random() ** 2))
  const token = (): string => tokenizer.decode([below(random, 199998)])
  const mixed = (): string => (random() < 0.5 ? pick(random, atoms) : pick(random, characters))
  return [
    { kind: 'any code points', draw: () => many(random, 24, () => codePoint(random, [0, 0x10ffff])) },
    {
      kind: 'one script',
      draw: () => {
        const range = pick(random, ranges)
        return many(random, 24, () => codePoint(random, range))
      },
    },
    { kind: 'all scripts', draw: () => many(random, 24, () => codePoint(random, pick(random, ranges))) },
    { kind: 'prose', draw: () => mutate(random, window(random, pick(random, prose), 60)) },
    {
      kind: 'code',
      draw: () => mutate(random, window(random, random() < 0.5 ? declarations : pick(random, code), 200)),
    },
    { kind: 'Chinese', draw: () => many(random, 60, () => (random() < 0.85 ? han() : pick(random, chinese))) },
    { kind: 'white space', draw: () => many(random, 16, () => pick(random, random() < 0.7 ? blanks : characters)) },
    { kind: 'emoji', draw: () => many(random, 8, () => emoji(random)) },
    { kind: 'tokens', draw: () => many(random, 8, token) },
    { kind: 'classes', draw: () => many(random, 30, () => pick(random, characters)) },
    { kind: 'atoms', draw: () => many(random, 16, () => mixed().repeat(random() < 0.7 ? 1 : 1 + below(random, 9))) },
    { kind: 'long words', draw: () => many(random, 300, () => pick(random, syllables)) },
    { kind: 'runs', draw: () => mixed().repeat(1 + below(random, 200)) + mixed() },
    { kind: 'lone surrogates', draw: () => many(random, 12, () => (random() < 0.4 ? surrogate(random) : mixed())) },
  ]
}

const ranges: [low: number, high: number][] = [
  [0x20, 0x7e],
  [0x00, 0x1f],
  [0x7f, 0xff],
  [0x100, 0x24f],
  [0x250, 0x36f],
  [0x370, 0x52f],
  [0x530, 0x6ff],
  [0x700, 0x8ff],
  [0x900, 0xdff],
  [0xe00, 0x10ff],
  [0x1100, 0x1fff],
  [0x2000, 0x206f],
  [0x2070, 0x2bff],
  [0x2c00, 0x2fff],
  [0x3000, 0x30ff],
  [0x4e00, 0x9fff],
  [0xa000, 0xabff],
  [0xac00, 0xd7a3],
  [0xe000, 0xf8ff],
  [0xf900, 0xffff],
  [0x10000, 0x1ffff],
  [0x1f000, 0x1faff],
  [0x20000, 0x3ffff],
  [0xe0000, 0x10ffff],
]
const blanks = [
  ...[
    ' ',
    ' ',
    '  ',
    '\t',
    '\n',
    '\n\n',
    '\r',
    '\r\n',
    '\v',
    '\f',
    '\u0085',
    '\u00a0',
    '\u1680',
    '\u180e',
    '\u2000',
    '\u2003',
  ],
  ...['\u200a', '\u200b', '\u200d', '\u2028', '\u2029', '\u202f', '\u205f', '\u2060', '\u3000', '\ufeff', '/', '/\n'],
]
const chinese = [
  '，',
  '。',
  '、',
  '「',
  '」',
  '？',
  '\u3000',
  ' ',
  '\n',
  '的',
  '是',
  '了',
  'GPT',
  '2026',
  '年',
  'ー',
  '々',
  '〇',
]
const syllables = [
  'a',
  'e',
  'i',
  'o',
  'n',
  's',
  't',
  'r',
  'th',
  'he',
  'in',
  'er',
  'ing',
  'tion',
  'un',
  'ß',
  'é',
  'л',
  'о',
  '日',
  '本',
]
const atoms = [
  ...[
    "'s",
    "'S",
    "'LL",
    "'Re",
    "'ve",
    "'d",
    "'M",
    "'",
    "''",
    '’s',
    'the',
    'The',
    ' of',
    'ing',
    'QU',
    'iPhone',
    '23',
    '4567',
  ],
  ...[
    '://',
    '//',
    '/\n',
    '();',
    '{\n',
    '  }',
    '</',
    '->',
    '=>',
    '!=',
    '...',
    '—',
    '…',
    '$',
    '<|end|>',
    '<|',
    '|>',
    '日本',
    'ที่',
    'नी',
  ],
]
const faces = ['🙂', '😂', '👍', '👩', '🧑', '👨', '🚀', '❤', '☺', '🏴', '⌚', '🫠', '🪿']
const modifiers = ['\ufe0f', '\u20e3', '\u200d', '🏻', '🏽', '🏿', '\u{e0067}', '\u{e007f}', '🇨', '🇭', '🇺']

function emoji(random: Random): string {
  return pick(random, random() < 0.6 ? faces : modifiers) + (random() < 0.4 ? pick(random, modifiers) : '')
}

/** Inserts, repeats or removes something at up to three places. */
function mutate(random: Random, text: string): string {
  let mutated = text
  for (let changes = below(random, 4); changes > 0; changes--) {
    const at = below(random, mutated.length + 1)
    const inserted = random() < 0.3 ? '' : pick(random, random() < 0.5 ? atoms : characters)
    mutated = mutated.slice(0, at) + inserted + mutated.slice(at + below(random, 2))
  }
  return mutated
}

function codePoint(random: Random, [low, high]: [number, number]): string {
  const drawn = low + below(random, high - low + 1)
  return String.fromCodePoint(drawn >= 0xd800 && drawn <= 0xdfff ? 0xfffd : drawn)
}

function surrogate(random: Random): string {
  return String.fromCharCode(0xd800 + below(random, 0x800))
}

function window(random: Random, text: string, length: number): string {
  const start = below(random, text.length)
  return text.slice(start, start + 1 + below(random, length))
}

function many(random: Random, max: number, draw: () => string): string {
  let text = ''
  for (let left = 1 + below(random, max); left > 0; left--) text += draw()
  return text
}

function pick<T>(random: Random, list: readonly T[]): T {
  return list[below(random, list.length)]
}

function below(random: Random, limit: number): number {
  return Math.floor(random() * limit)
}
