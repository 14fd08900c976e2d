/**
 * The law of who imports whom in src/. Prints each violation and exits 1.
 *
 *   node --conditions=tutti-source scripts/check-layers.ts
 */
import { existsSync, globSync, readFileSync } from 'node:fs'
import { isBuiltin } from 'node:module'
import { join, posix } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import type { Node } from 'typescript/unstable/ast'
import { isExportDeclaration, isImportDeclaration, isImportTypeNode } from 'typescript/unstable/ast/is'
import { API } from 'typescript/unstable/sync'

/**
 * What each folder of src/ may import besides itself and base; `type x`: only types of x; `*`: everything. The files
 * directly in src/ (load and what differs by platform) join the layers and count as the folder `index`.
 */
const layers: Record<string, string[]> = {
  base: [],
  tokenizer: [],
  kernels: [],
  checkpoint: [],
  store: [],
  harmony: ['tokenizer'],
  grammar: ['tokenizer', 'type harmony'],
  device: ['kernels'],
  model: ['kernels', 'checkpoint'],
  engine: ['model', 'device', 'kernels', 'checkpoint', 'type grammar'],
  tools: ['harmony'],
  safety: ['harmony', 'store'],
  agent: ['engine', 'harmony', 'tokenizer', 'grammar', 'tools', 'safety'],
  hub: ['checkpoint', 'device', 'model'],
  server: ['agent', 'engine', 'harmony', 'tokenizer', 'grammar', 'tools', 'safety', 'store', 'hub'],
  evals: ['agent', 'harmony'],
  index: ['hub', 'checkpoint', 'type kernels', 'device', 'model', 'engine', 'agent', 'harmony', 'tokenizer', 'grammar'],
  cli: ['*'],
}
const mayUseNode = /\.node\.ts$|^src\/(cli|evals|hub|store)\//
const isTest = /\.(test|long|bench|testing)\.ts$|\/testing\.ts$/
const isTesting = /\.testing\.ts$|\/testing\.ts$/
const isDoor = /^src\/[^/]+\/index\.ts$/

export interface Import {
  /** From the root of the project, `src/engine/session.ts`. */
  file: string
  specifier: string
  typeOnly: boolean
}
interface Manifest {
  imports?: Record<string, unknown>
  dependencies?: Record<string, string>
}

/**
 * One sentence for each import that the law forbids, and for each dependency that nothing imports. Tests and benches
 * may import what they like.
 */
export function violations(imports: Import[], manifest: Manifest): string[] {
  const shipped = imports.filter(({ file }) => !isTest.test(file))
  const unused = Object.keys(manifest.dependencies ?? {}).filter(
    name => !shipped.some(({ specifier }) => packageOf(specifier) === name),
  )
  return [
    ...shipped.flatMap(found => check(found, manifest)),
    ...unused.map(name => `package.json has the dependency ${name}, which nothing in src/ imports`),
  ]
}

function packageOf(specifier: string): string {
  return specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/')
}

function check(found: Import, manifest: Manifest): string[] {
  const { file, specifier } = found
  if (isBuiltin(specifier)) {
    return mayUseNode.test(file) ? [] : [`${file} imports ${specifier}: only *.node.ts, cli, evals, hub and store may`]
  }
  if (specifier.startsWith('#')) {
    const targets = sourceTargets(manifest.imports?.[specifier])
    if (targets.length === 0) return [`${file} imports ${specifier}, which package.json "imports" does not list`]
    return targets.flatMap(target => checkTarget(found, target))
  }
  if (specifier.startsWith('.')) return checkTarget(found, posix.join(posix.dirname(file), specifier))
  const name = packageOf(specifier)
  return name in (manifest.dependencies ?? {}) ? [] : [`${file} imports ${name}, which is not in "dependencies"`]
}

/** The files in src/ that a package.json "imports" entry leads to, on any platform. */
function sourceTargets(entry: unknown): string[] {
  if (typeof entry === 'string') return entry.startsWith('./src/') ? [entry.slice(2)] : []
  return Object.values(entry ?? {}).flatMap(sourceTargets)
}

function checkTarget({ file, typeOnly }: Import, target: string): string[] {
  const from = folderOf(file)
  const to = folderOf(target)
  if (!(from in layers)) return [`${file} is in no known layer: add ${from} to the table in scripts/check-layers.ts`]
  if (!target.startsWith('src/')) return [`${file} imports ${target}, which is outside src/`]
  if (!(to in layers)) return [`${file} imports ${target}: add ${to} to the table in scripts/check-layers.ts`]
  if (isTesting.test(target)) return [`${file} imports ${target}, which only tests may import`]
  if (isDoor.test(target) && from !== 'index') return [`${file} imports the door ${target}: import the file behind it`]
  const allowed = layers[from]
  if (from === to || to === 'base' || allowed.includes('*') || allowed.includes(to)) return []
  if (allowed.includes(`type ${to}`)) {
    return typeOnly ? [] : [`${file} imports ${target}: ${from} may import only types of ${to}, by "import type"`]
  }
  return [`${file} imports ${target}: ${from} may import ${allowed.join(', ') || 'nothing'} (and base), not ${to}`]
}

function folderOf(file: string): string {
  const parts = file.split('/')
  return parts.length > 2 ? parts[1] : 'index'
}

/** All imports of the files in src/: static and dynamic, of values and of types, and re-exports. */
export function readImports(root: string): Import[] {
  const configs = ['tsconfig.json', 'tsconfig.web.json'].map(name => join(root, name)).filter(existsSync)
  const api = new API({ cwd: root })
  try {
    const projects = api.updateSnapshot({ openProjects: configs }).getProjects()
    return globSync('src/**/*.ts', { cwd: root, exclude: ['**/*.d.ts'] }).flatMap(file => {
      const path = join(root, file)
      const source = projects.map(project => project.program.getSourceFile(path)).find(found => found)
      if (!source) throw new Error(`${file} belongs to no project: neither ${configs.join(' nor ')} includes it.`)
      return source.imports.map(node => ({ file, specifier: node.getText().slice(1, -1), typeOnly: isTypeOnly(node) }))
    })
  } finally {
    api.close()
  }
}

function isTypeOnly({ parent }: Node): boolean {
  if (isImportDeclaration(parent)) return parent.importClause?.getText().startsWith('type ') ?? false
  return (isExportDeclaration(parent) && parent.isTypeOnly) || isImportTypeNode(parent.parent)
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const root = fileURLToPath(new URL('..', import.meta.url))
  const imports = readImports(root)
  const found = violations(imports, JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')))
  for (const line of found) console.error(line)
  console.log(`check-layers: ${imports.length} imports, ${found.length} against the law`)
  if (found.length > 0 || imports.length === 0) process.exitCode = 1
}
