/** Damaged safetensors files for the fuzzers: mostly near misses of valid ones, so that every rule is reached. */

const encoder = new TextEncoder()

/** In [0, n). */
type Pick = (n: number) => number

const dataTypes: readonly (readonly [name: string, bits: number])[] = [
  ...([
    ['U8', 8],
    ['I8', 8],
    ['BOOL', 8],
    ['F8_E4M3', 8],
    ['BF16', 16],
    ['F16', 16],
    ['I16', 16],
  ] as const),
  ...([
    ['F32', 32],
    ['U32', 32],
    ['F64', 64],
    ['C64', 64],
    ['F4', 4],
    ['F6_E2M3', 6],
  ] as const),
]
const names = [
  'a',
  'b',
  'block.0.attn.sinks',
  '__proto__',
  '',
  '\\u0061',
  '\\ud83d\\ude00',
  'größe',
  '__metadata__',
  'a\\"',
]
const numbers = [
  ...['0', '1', '2', '3', '4', '7', '8', '255', '-0', '-1', '1.0', '4e0', '1e400', '007', '4294967296', '4294967297'],
  ...['9007199254740991', '9007199254740993', '2305843009213693951', '2305843009213693952', '9223372036854775808'],
  ...['18446744073709551615', '18446744073709551616', '340282366920938463463374607431768211456', 'null', '"4"', 'NaN'],
]
const snippets = [
  ...[
    '{',
    '}',
    '[',
    ']',
    ',',
    ':',
    '"',
    '\\',
    ' ',
    '\n',
    '\t',
    '\f',
    '\0',
    '\u00a0',
    '\ufeff',
    'é',
    '😀',
    'null',
    'true',
    '{}',
  ],
  ...[
    '\\u0000',
    '\\ud800',
    '\\udc00',
    '\\ud83d\\ude00',
    '\\x',
    '/**/',
    '[]',
    '"x":1,',
    '"x":[[]],',
    '"x":{"y":1,"y":2},',
  ],
  ...[
    '"dtype":"U8",',
    '"shape":[0],',
    '"data_offsets":[0,0],',
    '"__metadata__":{},',
    '"__metadata__":null,',
    '{"U8":null}',
  ],
  ...[
    '"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},',
    '"a":["U8",[0],[0,0]],',
    '[['.repeat(70),
    '{"x":'.repeat(130),
  ],
]
const bytes = [0x00, 0x1f, 0x22, 0x5c, 0x7f, 0x80, 0xbf, 0xc0, 0xe2, 0xed, 0xf4, 0xff]

/** Valid headers that a fuzzer starts from: making one costs more than damaging it. */
const numHeaders = 5000

/** A maker of files: small valid ones, most of them damaged in one to three places. `random` gives numbers in [0, 1). */
export function fileMutator(random: () => number): () => Uint8Array {
  const pick: Pick = n => Math.floor(random() * n)
  const headers = Array.from({ length: numHeaders }, () => validHeader(pick))
  return () => {
    const { header, dataBytes } = headers[pick(numHeaders)]
    let text = header
    for (let mutations = pick(8) === 0 ? 0 : 1 + pick(3); mutations > 0; mutations--) text = mutateText(text, pick)
    let raw = encoder.encode(text)
    if (pick(6) === 0) raw = mutateBytes(raw, pick)
    return wholeFile(raw, dataBytes, pick)
  }
}

function validHeader(pick: Pick): { header: string; dataBytes: number } {
  const entries: string[] = []
  let offset = 0
  for (let i = pick(4); i >= 0; i--) {
    const [dataType, bits] = dataTypes[pick(dataTypes.length)]
    const shape = Array.from({ length: pick(4) }, () => [0, 1, 2, 4, 8][pick(5)])
    const size = Math.ceil((shape.reduce((product, size) => product * size, 1) * bits) / 8)
    const offsets = `[${offset},${(offset += size)}]`
    const name = pick(4) === 0 ? names[pick(names.length)] : `t${i}`
    const fields = [`"dtype":"${dataType}"`, `"shape":[${shape}]`, `"data_offsets":${offsets}`]
    if (pick(4) === 0) fields.reverse()
    entries.push(pick(16) === 0 ? `"${name}":["${dataType}",[${shape}],${offsets}]` : `"${name}":{${fields.join(',')}}`)
  }
  if (pick(4) === 0) entries.reverse()
  if (pick(4) === 0) entries.unshift('"__metadata__":{"format":"pt"}')
  return { header: `{${entries.join(pick(4) === 0 ? ' , ' : ',')}}${' '.repeat(pick(8))}`, dataBytes: offset }
}

function mutateText(text: string, pick: Pick): string {
  const at = pick(text.length + 1)
  const end = Math.min(text.length, at + 1 + pick(pick(4) === 0 ? 60 : 4))
  switch (pick(6)) {
    case 0:
      return text.slice(0, at) + snippets[pick(snippets.length)] + text.slice(at)
    case 1:
      return text.slice(0, at) + text.slice(end)
    case 2:
      return text.slice(0, end) + text.slice(at)
    case 3:
      return text.slice(0, at) + String.fromCharCode(pick(128)) + text.slice(at + 1)
    default:
      return replaceNumber(text, at, numbers[pick(numbers.length)])
  }
}

/** The next number behind `at` becomes another. */
function replaceNumber(text: string, at: number, number: string): string {
  const digits = /\d+/g
  digits.lastIndex = at
  const found = digits.exec(text)
  return found ? text.slice(0, found.index) + number + text.slice(digits.lastIndex) : text
}

function mutateBytes(raw: Uint8Array<ArrayBuffer>, pick: Pick): Uint8Array<ArrayBuffer> {
  if (raw.length > 0) raw[pick(raw.length)] = pick(2) === 0 ? bytes[pick(bytes.length)] : pick(256)
  return raw
}

/** Puts length, header and data together; now and then the length lies, or the file is cut or goes on. */
function wholeFile(header: Uint8Array, dataBytes: number, pick: Pick): Uint8Array {
  const extra = pick(12) === 0 ? pick(9) - 4 : 0
  const file = new Uint8Array(8 + header.length + Math.max(0, dataBytes + extra))
  file.set(header, 8)
  const view = new DataView(file.buffer)
  view.setUint32(0, header.length, true)
  if (pick(16) === 0)
    view.setUint32(0, [0, 1, header.length + 1, header.length - 1, file.length, 0xffffffff][pick(6)], true)
  if (pick(64) === 0) view.setUint32(4, [1, 0x80000000, 0xffffffff][pick(3)], true)
  return pick(32) === 0 ? file.subarray(0, pick(file.length + 1)) : file
}
