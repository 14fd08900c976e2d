/**
 * Makes what the package ships and the source needs: the tokenizer's vocabulary, dist/ with the JavaScript and the
 * declarations of src/, and the CPU device's addon (scripts/build-native.ts). Runs in `npm ci` and `npm pack` (as
 * `prepare`), skips what is unchanged, takes about two seconds, and half a minute when the kernels are compiled. Types are
 * not checked here: that is `npm run check`.
 *
 *   node --conditions=tutti-source scripts/build.ts
 */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, existsSync, globSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { buildNative } from './build-native.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const cache = join(root, 'node_modules/.cache/tutti')
const vocabulary = 'src/tokenizer/vocabulary.generated.bin'
/** Files of src/ that are no TypeScript and go to the same place in dist/. */
const dataFiles = [vocabulary]

/** Builds what is out of date. Safe while others import dist/: a whole new one takes its place. */
export async function build(): Promise<void> {
  const vocabularyInputs = ['scripts/build-vocabulary.ts', 'src/tokenizer/vocabulary.ts', 'package-lock.json']
  await step('vocabulary', [vocabulary], hashOf(vocabularyInputs), async () => {
    const { buildVocabulary } = await import('./build-vocabulary.ts')
    buildVocabulary()
  })
  const distInputs = ['scripts/build.ts', 'package-lock.json', 'tsconfig.json', 'tsconfig.build.json', ...dataFiles]
  const sources = globSync('src/**/*.ts', { cwd: root }).sort()
  await step('dist', ['dist/index.js'], hashOf([...distInputs, ...sources]), buildDist)
}

/** Runs `make` unless the outputs are there and were made from inputs with this hash. */
async function step(name: string, outputs: string[], hash: string, make: () => void | Promise<void>): Promise<void> {
  const stamp = join(cache, `${name}.sha256`)
  const known = existsSync(stamp) ? readFileSync(stamp, 'utf8') : ''
  if (known === hash && outputs.every(file => existsSync(join(root, file)))) return
  await make()
  mkdirSync(cache, { recursive: true })
  writeFileSync(stamp, hash)
}

function hashOf(files: string[]): string {
  const hash = createHash('sha256')
  for (const file of files)
    hash
      .update(`${file}\0`)
      .update(readFileSync(join(root, file)))
      .update('\0')
  return hash.digest('hex')
}

function buildDist(): void {
  const fresh = join(cache, `dist-${process.pid}`)
  writeDist(fresh)
  const stale = join(cache, `stale-${process.pid}`)
  if (existsSync(join(root, 'dist'))) renameSync(join(root, 'dist'), stale)
  renameSync(fresh, join(root, 'dist'))
  rmSync(stale, { recursive: true, force: true })
}

/** Writes what dist/ holds to a folder of any name; its modules look for models/ beside that folder. */
export function writeDist(folder: string): void {
  const tsc = join(root, 'node_modules/typescript/bin/tsc')
  const args = [tsc, '-p', 'tsconfig.build.json', '--noCheck', '--outDir', folder]
  const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' })
  if (status !== 0) {
    rmSync(folder, { recursive: true, force: true })
    throw new Error('dist/ is not built: tsc stopped with the errors above; mend them, then "npm run prepare".')
  }
  for (const file of globSync('**/*.d.ts', { cwd: folder })) mendDeclarations(join(folder, file))
  for (const file of dataFiles) cpSync(join(root, file), join(folder, file.replace(/^src\//, '')))
}

/**
 * tsc rewrites './x.ts' to './x.js' in JavaScript but leaves declarations, where not every reader resolves it; and a
 * declaration that names Symbol.dispose or Symbol.asyncDispose has to bring the library that declares them.
 */
function mendDeclarations(file: string): void {
  const text = readFileSync(file, 'utf8')
  const mended = text.replace(/((?:from |import |import\()['"]\.{1,2}\/[^'"]*)\.ts(?=['"])/g, '$1.js')
  const needsLibrary = /\b(Symbol\.(asyncD|d)ispose|(Async)?Disposable)\b/.test(text)
  writeFileSync(file, needsLibrary ? `/// <reference lib="esnext.disposable" />\n${mended}` : mended)
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  await build()
  await buildNative()
}
