import assert from 'node:assert/strict'
import { resolve } from 'node:path'
import { test } from 'node:test'
import { cacheFolder } from './cache-folder.node.ts'

const home = () => '/home/me'
const cases: [env: NodeJS.ProcessEnv, platform: NodeJS.Platform, folder: string][] = [
  [{}, 'linux', '/home/me/.cache/tutti'],
  [{}, 'darwin', '/home/me/Library/Caches/tutti'],
  [{ XDG_CACHE_HOME: '/fast' }, 'linux', '/fast/tutti'],
  [{ XDG_CACHE_HOME: '/fast' }, 'darwin', '/fast/tutti'],
  [{ XDG_CACHE_HOME: 'relative' }, 'linux', '/home/me/.cache/tutti'],
  [{ LOCALAPPDATA: '/users/me/local' }, 'win32', '/users/me/local/tutti/Cache'],
  [{ TUTTI_CACHE_DIR: '/big', XDG_CACHE_HOME: '/fast' }, 'linux', '/big'],
  [{ TUTTI_CACHE_DIR: 'here' }, 'linux', resolve('here')],
]
for (const [env, platform, folder] of cases) {
  test(`the cache folder with ${JSON.stringify(env)} on ${platform}`, { skip: process.platform === 'win32' }, () => {
    assert.equal(cacheFolder(env, platform, home), folder)
  })
}

test('a user without a home has none', () =>
  assert.equal(
    cacheFolder({}, 'linux', () => undefined),
    undefined,
  ))
