/**
 * Checks the package as people get it: packs it, installs the tarball without scripts in an empty folder, and uses it
 * there under the oldest Node it supports, the one it is developed with and the newest. Needs npm's registry or cache.
 *
 *   npm run check:package
 */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { after, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { blocksOf } from './check-docs.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const temporary = mkdtempSync(join(tmpdir(), 'tutti-package-'))
after(() => rmSync(temporary, { recursive: true, force: true }))

/** The environment of a user's shell: nothing of the npm or the test runner that may have started this. */
const userEnv = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !/^(npm_|NODE_(?!EXTRA_CA_CERTS)|INIT_CWD)/i.test(name)),
)
const outsidePath = (process.env.PATH ?? '').split(delimiter).filter(folder => !folder.includes('node_modules'))

interface Manifest {
  scripts: Record<string, string>
  exports: Record<string, unknown>
  engines: { node: string }
}
const question = 'What is MXFP4?'
const answer = /MXFP4 is a 4-bit format/
const oldest = /\d+\.\d+/.exec((readJson(join(root, 'package.json')) as Manifest).engines.node)?.[0]
const tooOld = '20'

function readJson(file: string): unknown {
  return JSON.parse(readFileSync(file, 'utf8'))
}

/** Packs the project; `prepare` builds it before. */
function pack(): { tarball: string; files: string[] } {
  const args = ['pack', '--json', '--pack-destination', temporary]
  const output = execFileSync('npm', args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
  const [{ filename, files, size, unpackedSize }] = JSON.parse(output.slice(output.indexOf('[')))
  console.log(`${filename}: ${files.length} files, ${megabytes(size)} packed, ${megabytes(unpackedSize)} unpacked`)
  return { tarball: join(temporary, filename), files: files.map(({ path }: { path: string }) => path) }
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`
}

/** A folder elsewhere with the tarball installed, as `npm i <tarball> --ignore-scripts` leaves it. */
function installTarball(tarball: string): string {
  const folder = join(temporary, 'user')
  mkdirSync(folder)
  writeFileSync(join(folder, 'package.json'), '{ "private": true, "type": "module" }')
  const args = ['install', tarball, '--ignore-scripts', '--prefer-offline']
  execFileSync('npm', args, { cwd: folder, env: userEnv, stdio: ['ignore', 'ignore', 'inherit'] })
  return folder
}

/** The folder of Node's binary of this version (`22.19`, `latest`), from npm's package `node`. */
function installNode(version: string): string {
  const folder = join(temporary, `node-${version}`)
  mkdirSync(folder)
  writeFileSync(join(folder, 'package.json'), '{ "private": true, "allowScripts": { "node": true } }')
  const args = ['install', `node@${version}`, '--prefer-offline']
  execFileSync('npm', args, { cwd: folder, env: userEnv, stdio: ['ignore', 'ignore', 'inherit'] })
  return join(folder, 'node_modules/node/bin')
}

const { tarball, files } = pack()
const user = installTarball(tarball)
const installed = join(user, 'node_modules/tutti')
const manifest = readJson(join(installed, 'package.json')) as Manifest
const doors = Object.keys(manifest.exports)
  .filter(door => !door.endsWith('.json'))
  .map(door => `tutti${door.slice(1)}`)

/** Runs a command line in the user's folder with the Node of that folder first. */
function run(nodeFolder: string, command: string, input = '') {
  const env = { ...userEnv, PATH: [nodeFolder, ...outsidePath].join(delimiter) }
  const options = { cwd: user, env, input, encoding: 'utf8', shell: true, timeout: 120_000 } as const
  const { status, stdout, stderr } = spawnSync(command, options)
  return { status, stdout, stderr, all: `${command} ended with ${status}\n${stdout}${stderr}` }
}

test('the tarball holds JavaScript and declarations, and nothing that would run at installation', () => {
  const typescript = files.filter(file => /\.[cm]?ts$/.test(file) && !file.endsWith('.d.ts'))
  assert.deepEqual(typescript, [], 'Node refuses to strip types under node_modules')
  assert.deepEqual(
    files.filter(file => /binding\.gyp$|(^|\/)(src|test|scripts|recipe)\//.test(file)),
    [],
  )
  for (const name of ['preinstall', 'install', 'postinstall']) assert.ok(!(name in manifest.scripts), name)
  for (const name of ['README.md', 'LICENSE', 'CHANGELOG.md', 'models/nano/model.safetensors']) {
    assert.ok(files.includes(name), `${name} is missing`)
  }
  for (const file of files.filter(name => name.endsWith('.d.ts'))) {
    assert.doesNotMatch(readFileSync(join(installed, file), 'utf8'), /from ['"]\.[^'"]*(?<!\.js)['"]/, file)
  }
})

for (const version of [oldest, process.versions.node, 'latest']) {
  describe(`under Node ${version}`, () => {
    const own = version === process.versions.node
    const node = own ? join(root, 'node_modules/node/bin') : installNode(String(version))
    test('it is that Node', t => {
      const { stdout, all } = run(node, 'node --version')
      assert.match(stdout, version === 'latest' ? /^v(2[6-9]|[3-9]\d)\./ : new RegExp(`^v${version}`), all)
      t.diagnostic(stdout.trim())
    })
    test('every door of "exports" opens', () => {
      writeFileSync(
        join(user, 'doors.js'),
        `for (const door of ${JSON.stringify(doors)}) {
          const names = Object.keys(await import(door))
          if (names.length === 0) throw new Error(door + ' is empty')
        }`,
      )
      const { status, all } = run(node, 'node doors.js')
      assert.equal(status, 0, all)
    })
    test('npx tutti chat answers its input', () => {
      const { status, stdout, all } = run(node, 'npx tutti chat', `${question}\n`)
      assert.equal(status, 0, all)
      assert.match(stdout, answer)
    })
    test('npx tutti generate answers in a pipe', () => {
      const { status, stdout, all } = run(node, 'npx tutti generate', question)
      assert.equal(status, 0, all)
      assert.match(stdout, answer)
    })
    test('the script of the README answers and ends by itself', () => {
      const readme = blocksOf('README.md', readFileSync(join(installed, 'README.md'), 'utf8'))
      const script = readme.find(({ marker, language }) => marker === 'run' && language === 'ts')
      assert.ok(script)
      writeFileSync(join(user, 'readme.js'), script.text)
      const { status, stdout, all } = run(node, 'node readme.js')
      assert.equal(status, 0, all)
      assert.match(stdout, answer)
    })
  })
}

test(`under Node ${tooOld} the command says in one sentence what it needs`, () => {
  const { status, stdout, stderr } = run(installNode(tooOld), join('node_modules', '.bin', 'tutti'))
  assert.equal(status, 1)
  assert.equal(stdout, '')
  assert.match(stderr, new RegExp(`^tutti needs Node ${oldest} or newer, and this is ${tooOld}\\.[^\\n]*\\n$`))
})

const consumer = `
${doors.map((door, i) => `import * as door${i} from '${door}'`).join('\n')}
import { load } from 'tutti'
export const doors = [${doors.map((_, i) => `door${i}`)}]
const model = await load('nano')
for await (const event of model.respond('${question}', { reasoning: 'low' })) {
  if (event.type === 'final') event.text.toUpperCase()
  // @ts-expect-error: an event has a type, and it is none of these
  if (event.type === 'nonsense') throw event
}
// @ts-expect-error: no reasoning effort has this name
model.respond('${question}', { reasoning: 'utmost' })
`
const base = { target: 'es2023', strict: true, noEmit: true, skipLibCheck: false }
const typeScriptUsers: [name: string, options: Record<string, unknown>][] = [
  ['nodenext and the types of Node', { module: 'nodenext', lib: ['es2023'], types: ['node'] }],
  ['bundler and the types of a browser', { module: 'esnext', moduleResolution: 'bundler', types: [] }],
]
for (const [name, options] of typeScriptUsers) {
  test(`TypeScript finds the types with ${name}`, () => {
    const types = join(user, 'node_modules/@types')
    if (!existsSync(types)) symlinkSync(join(root, 'node_modules/@types'), types)
    const undici = join(user, 'node_modules/undici-types')
    if (!existsSync(undici)) symlinkSync(join(root, 'node_modules/undici-types'), undici)
    writeFileSync(join(user, 'consumer.ts'), consumer)
    writeFileSync(
      join(user, 'tsconfig.json'),
      JSON.stringify({ compilerOptions: { ...base, ...options }, files: ['consumer.ts'] }),
    )
    const { status, all } = run(
      join(root, 'node_modules/node/bin'),
      `node ${join(root, 'node_modules/typescript/bin/tsc')} -p .`,
    )
    assert.equal(status, 0, all)
  })
}
