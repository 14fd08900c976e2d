/** Megabytes of UTF-8 a second, beside tiktoken's own code as WebAssembly (npm package tiktoken), and the time to load. */
import { globSync, readFileSync } from 'node:fs'
import { get_encoding } from 'tiktoken'
import { createTokenizer } from './bpe.ts'
import { StreamingDecoder } from './streaming-decoder.ts'
import { loadVocabulary } from './vocabulary.node.ts'
import { unpackVocabulary } from './vocabulary.ts'

const root = new URL('../../', import.meta.url)
const read = (pattern: string): string =>
  globSync(pattern, { cwd: root })
    .sort()
    .map(file => readFileSync(new URL(file, root), 'utf8'))
    .join('\n')

const chinese = `
清晨五点，港口还笼罩在薄雾里，老灯塔的光一圈一圈地扫过水面。看守灯塔的人姓陈，今年六十三岁，他在这里已经工作了三十一年。
每天天亮以前，他要做三件事：检查电机的温度，擦干净玻璃，再把昨夜经过的船只记在本子上。“灯要是灭了，”他常对年轻人说，“船就没有眼睛了。”
大型语言模型的原理其实并不神秘。它把一段文字切成许多小块，每一块叫做一个词元，然后根据前面所有的词元，计算下一个词元出现的概率。
混合专家模型的参数虽然多，但每一次只有其中一小部分参与计算，因此在普通电脑上也能达到不错的速度。以一个二百一十亿参数的模型为例，
每生成一个词元，真正用到的参数只有三十六亿左右；如果内存的带宽是每秒六十四吉字节，理论上每秒可以生成二十多个词元。
秋天的集市非常热闹，卖茶叶的、卖瓷器的、修钟表的都摆出了摊子。孩子们围着做糖画的师傅，看他用一勺热糖浆画出龙、凤和蝴蝶。
有人问价钱，有人讨价还价，还有人只是来听戏。台上正唱到最热闹的地方，锣鼓齐鸣，台下却突然下起雨来，大家笑着跑进茶馆里躲雨。
数据不能离开本机，是许多医院和学校的硬性要求。他们需要一个可以离线运行的系统：所有的记录都保存在自己的硬盘上，每一次操作都有日志可查。
下午两点十五分，会议准时开始。主席首先回顾了上个季度的工作，然后请各部门汇报进展；讨论持续了将近三个小时，最后一致通过了新的预算方案。
河对岸的山上种满了竹子，风一吹，整座山都在沙沙作响。爷爷说，竹子开花的那一年，村里会来很多客人；可是我长到这么大，一次也没有见过。`

const texts: [name: string, text: string][] = [
  ['English', read('*.md') + read('{docs,test,models}/**/*.md')],
  ['Chinese', chinese],
  ['code', read('src/**/*.ts')],
]

const C = () => { const u = process.cpuUsage(); return (u.user + u.system) / 1000 }
const sampleBytes = 100_000 // short, so that one of many times is undisturbed

const loadStart = performance.now()
const tokenizer = createTokenizer(unpackVocabulary(await loadVocabulary()))
console.log(`loaded in ${(performance.now() - loadStart).toFixed(0)} ms`)
const tiktoken = get_encoding('o200k_base')

/** Bytes divided by the best of several times, in MB/s. */
function speed(bytes: number, run: () => void): number {
  const times = Array.from({ length: 60 }, () => {
    const start = C()
    run()
    return C() - start
  })
  return bytes / Math.min(...times) / 1000
}

console.log('             tutti MB/s   tiktoken MB/s   times   tokens/s   streaming decode, tokens/s')
for (const [name, sample] of texts) {
  const text = sample.slice(0, sampleBytes).repeat(Math.ceil(sampleBytes / Buffer.byteLength(sample)))
  const bytes = Buffer.byteLength(text)
  const ours = speed(bytes, () => tokenizer.encode(text))
  const theirs = speed(bytes, () => tiktoken.encode_ordinary(text))
  const ids = tokenizer.encode(text)
  const decoding = speed(ids.length, () => {
    const decoder = new StreamingDecoder(tokenizer)
    for (const id of ids) decoder.push(id)
  })
  const columns = [ours.toFixed(1), theirs.toFixed(1), (ours / theirs).toFixed(1)]
  const millions = [(ours * ids.length) / bytes, decoding].map(value => `${value.toFixed(1)} M`)
  console.log(
    name.padEnd(10),
    columns[0].padStart(12),
    columns[1].padStart(15),
    columns[2].padStart(7),
    ...millions.map(m => m.padStart(10)),
  )
}
