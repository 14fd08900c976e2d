/**
 * Keeps the documentation true: its TypeScript compiles against the package as users see it, its commands and options
 * exist, its links lead to files, and the help texts it quotes are those that the commands print.
 *
 *   node --conditions=tutti-source scripts/check-docs.ts
 *
 * Comments before a fenced block: `<!-- run -->` the tests run it, `<!-- output -->` what the block before it printed,
 * `<!-- help: tutti chat -->` what that command prints with --help.
 */
import { existsSync, globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { type Ended, runNode } from '../test/planted.ts'
import { build } from './build.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const documents = ['*.md', 'docs/**/*.md', 'models/nano/*.md']
const compiled = /^(README\.md|docs\/)/

export interface Block {
  /** The document, from the root of the project. */
  file: string
  /** Of the first line inside the fence, from 1. */
  line: number
  language: string
  /** The text of a comment right before the fence. */
  marker: string
  text: string
}

/** The fenced blocks of a Markdown text. */
export function blocksOf(file: string, markdown: string): Block[] {
  const pattern = /^(?:<!--\s*([^\n]*?)\s*-->\n+)?^```([^\n]*)\n(.*?)^```[ \t]*$/gms
  return [...markdown.matchAll(pattern)].map(match => {
    const [whole, marker = '', language, text] = match
    const start = match.index + whole.indexOf('```')
    return { file, line: markdown.slice(0, start).split('\n').length + 1, language: language.trim(), marker, text }
  })
}

export interface TuttiCall {
  command: string
  options: string[]
}

/** The calls of tutti in a shell text: `npx tutti chat --raw` calls chat with --raw. */
export function tuttiCalls(shell: string): TuttiCall[] {
  const lines = shell.replaceAll('\\\n', ' ').split('\n')
  const commands = lines.flatMap(line => line.replace(/(^|\s)#.*/, '').split(/\|\||&&|[|;]/))
  return commands.flatMap(text => {
    const match = /^\s*(?:\$ )?(?:npx )?tutti ([a-z][a-z-]*)(.*)/.exec(text)
    return match ? [{ command: match[1], options: match[2].match(/(?<=\s)--[a-z-]+/g) ?? [] }] : []
  })
}

export interface Document {
  file: string
  markdown: string
}

export function readDocuments(): Document[] {
  return globSync(documents, { cwd: root }).map(file => ({ file, markdown: readFileSync(join(root, file), 'utf8') }))
}

/** Calls `use` with a folder outside the project, in which `tutti` is installed, and removes it. */
export async function withUserProject<T>(use: (folder: string) => T | Promise<T>): Promise<T> {
  await build()
  const folder = mkdtempSync(join(tmpdir(), 'tutti-docs-'))
  try {
    mkdirSync(join(folder, 'node_modules'))
    symlinkSync(root, join(folder, 'node_modules/tutti'))
    symlinkSync(join(root, 'node_modules/@types'), join(folder, 'node_modules/@types'))
    symlinkSync(join(root, 'node_modules/undici-types'), join(folder, 'node_modules/undici-types'))
    writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
    return await use(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Writes a block of TypeScript at the line that it has in its document, so that errors name that line. */
export function writeBlock(folder: string, { file, line, text }: Block): string {
  const name = `${file.replaceAll('/', '-')}-${line}.ts`
  writeFileSync(join(folder, name), '\n'.repeat(line - 1) + text)
  return name
}

/** What tsc says of these blocks, each a file of its own in the project of a user. */
export async function typeErrors(blocks: Block[]): Promise<string[]> {
  return withUserProject(async folder => {
    for (const block of blocks) writeBlock(folder, block)
    const compilerOptions = {
      ...{ module: 'nodenext', target: 'es2024', lib: ['es2024', 'esnext.disposable'], types: ['node'] },
      ...{ strict: true, noEmit: true, moduleDetection: 'force', skipLibCheck: true },
    }
    writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['*.ts'] }))
    const { stdout } = await runNode(root, ['node_modules/typescript/bin/tsc', '--pretty', 'false', '-p', folder])
    return stdout.split('\n').filter(line => line !== '')
  })
}

function brokenLinks(file: string, markdown: string): string[] {
  const prose = markdown.replace(/^```.*?^```/gms, '')
  const targets = [...prose.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => target.replace(/#.*/, ''))
  const local = targets.filter(target => target !== '' && !/^[a-z]+:/.test(target))
  return local
    .filter(target => !existsSync(join(root, dirname(file), decodeURI(target))))
    .map(target => `${file}: the link to ${target} leads nowhere`)
}

const helps = new Map<string, Promise<Ended>>()
function helpOf(command: string): Promise<Ended> {
  const words = command.split(' ').slice(1)
  const known = helps.get(command) ?? runNode(root, ['src/cli/main.ts', ...words, '--help'])
  helps.set(command, known)
  return known
}

async function wrongCalls(file: string, calls: TuttiCall[]): Promise<string[]> {
  const found = await Promise.all(
    calls.map(async ({ command, options }) => {
      const { code, stdout } = await helpOf(`tutti ${command}`)
      if (code !== 0) return [`${file}: there is no command "tutti ${command}"`]
      const unknown = options.filter(option => !new RegExp(`${option}(?![a-z-])`).test(stdout))
      return unknown.map(option => `${file}: "tutti ${command}" has no option ${option}`)
    }),
  )
  return found.flat()
}

async function wrongHelp({ file, line, marker, text }: Block): Promise<string[]> {
  const command = marker.replace(/^help:\s*/, '')
  const { stdout } = await helpOf(command)
  const same = stdout.trim() === text.trim()
  return same ? [] : [`${file}:${line}: this is not what "${command} --help" prints, which is:\n${stdout}`]
}

function missingScripts(file: string, shell: string): string[] {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>
  }
  const called = [...shell.matchAll(/npm run ([a-z:]+)|npm (start|test)\b/g)].map(([, run, own]) => run ?? own)
  return called.filter(name => !(name in scripts)).map(name => `${file}: there is no npm script "${name}"`)
}

/** What is wrong in a document's links, commands and quoted help texts. */
export async function problemsOf({ file, markdown }: Document): Promise<string[]> {
  const blocks = blocksOf(file, markdown)
  const inline = [...markdown.matchAll(/`((?:npx )?(?:tutti|npm) [^`\n]+)`/g)].map(([, code]) => code)
  const shell = [
    ...blocks.filter(({ language }) => /^(sh|bash|console)$/.test(language)).map(({ text }) => text),
    ...inline,
  ]
  const found = await Promise.all([
    ...shell.map(text => wrongCalls(file, tuttiCalls(text))),
    ...blocks.filter(({ marker }) => marker.startsWith('help:')).map(wrongHelp),
  ])
  return [...brokenLinks(file, markdown), ...shell.flatMap(text => missingScripts(file, text)), ...found.flat()]
}

async function main(): Promise<void> {
  const all = readDocuments()
  const typescript = all
    .filter(({ file }) => compiled.test(file))
    .flatMap(({ file, markdown }) => blocksOf(file, markdown))
    .filter(({ language }) => language === 'ts')
  const problems = [...(await typeErrors(typescript)), ...(await Promise.all(all.map(problemsOf))).flat()]
  for (const problem of new Set(problems)) console.error(problem)
  console.log(
    `check-docs: ${all.length} documents, ${typescript.length} snippets of TypeScript, ${problems.length} wrong`,
  )
  if (problems.length > 0) process.exitCode = 1
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) await main()
