import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { RequestError } from '../base/errors.ts'
import { readEnvironment } from './environment.ts'

type Variables = Record<string, string>
const read = (env: Variables) => readEnvironment(env, '/home/me')

const caches: [env: Variables, cache: string][] = [
  [{}, '/home/me/.cache/huggingface/hub'],
  [{ XDG_CACHE_HOME: '/fast' }, '/fast/huggingface/hub'],
  [{ HF_HOME: '/hf', XDG_CACHE_HOME: '/fast' }, '/hf/hub'],
  [{ HF_HOME: '~/hf' }, '/home/me/hf/hub'],
  [{ HF_HOME: '$BIG/hf', BIG: '/big' }, '/big/hf/hub'],
  [{ HF_HOME: `\${BIG}/hf`, BIG: '/big' }, '/big/hf/hub'],
  [{ HF_HOME: '/a/$UNKNOWN' }, '/a/$UNKNOWN/hub'],
  [{ HUGGINGFACE_HUB_CACHE: '/old', HF_HOME: '/hf' }, '/old'],
  [{ HF_HUB_CACHE: '/cache', HUGGINGFACE_HUB_CACHE: '/old' }, '/cache'],
]

const proxies: [env: Variables, url: string, proxy: string | undefined][] = [
  [{}, 'https://huggingface.co/x', undefined],
  [{ HTTPS_PROXY: 'http://p:8080' }, 'https://huggingface.co/x', 'http://p:8080/'],
  [{ https_proxy: 'p:8080' }, 'https://huggingface.co/x', 'http://p:8080/'],
  [{ HTTPS_PROXY: 'http://p:8080' }, 'http://huggingface.co/x', undefined],
  [{ HTTP_PROXY: 'http://p:8080' }, 'http://huggingface.co/x', 'http://p:8080/'],
  [{ all_proxy: 'http://p:8080' }, 'https://huggingface.co/x', 'http://p:8080/'],
  [{ ALL_PROXY: 'http://p', NO_PROXY: 'huggingface.co' }, 'https://huggingface.co/x', undefined],
  [{ ALL_PROXY: 'http://p', NO_PROXY: 'huggingface.co' }, 'https://cdn.huggingface.co/x', undefined],
  [{ ALL_PROXY: 'http://p', NO_PROXY: 'example.org, .huggingface.co' }, 'https://cdn.huggingface.co/x', undefined],
  [{ ALL_PROXY: 'http://p', NO_PROXY: 'face.co' }, 'https://huggingface.co/x', 'http://p/'],
  [{ ALL_PROXY: 'http://p', NO_PROXY: 'huggingface.co:80' }, 'https://huggingface.co/x', 'http://p/'],
  [{ ALL_PROXY: 'http://p', NO_PROXY: '*' }, 'https://huggingface.co/x', undefined],
]

describe('the environment', { skip: process.platform === 'win32' && 'the cases have paths of other systems' }, () => {
  for (const [env, cache] of caches) {
    it(`has the cache ${cache} with ${JSON.stringify(env)}`, () => assert.equal(read(env).cache, cache))
  }

  for (const [env, url, proxy] of proxies) {
    it(`takes ${proxy ?? 'no proxy'} to ${url} with ${JSON.stringify(env)}`, () =>
      assert.equal(read(env).proxyFor(new URL(url))?.href, proxy))
  }

  it('knows the hub, or another one', () => {
    assert.equal(read({}).endpoint, 'https://huggingface.co')
    assert.equal(read({ HF_ENDPOINT: 'https://mirror.example/hf/' }).endpoint, 'https://mirror.example/hf')
    assert.throws(() => read({ HF_ENDPOINT: 'mirror' }), RequestError)
    assert.throws(() => read({ ALL_PROXY: 'socks5://p' }).proxyFor(new URL('https://a')), /ALL_PROXY is "socks5:/)
  })

  it('finds the token in variables, then in the file, or not at all', () => {
    const home = mkdtempSync(join(tmpdir(), 'tutti-token-'))
    try {
      writeFileSync(join(home, 'token'), 'hf_file\n')
      assert.equal(read({ HF_HOME: home }).token, 'hf_file')
      assert.equal(read({ HF_HOME: home, HUGGING_FACE_HUB_TOKEN: 'hf_old' }).token, 'hf_old')
      assert.equal(read({ HF_HOME: home, HUGGING_FACE_HUB_TOKEN: 'hf_old', HF_TOKEN: ' hf_new ' }).token, 'hf_new')
      assert.equal(read({ HF_HOME: home, HF_HUB_DISABLE_IMPLICIT_TOKEN: 'YES' }).token, undefined)
      assert.equal(read({ HF_HOME: '/nowhere', HF_TOKEN_PATH: join(home, 'token') }).token, 'hf_file')
      assert.throws(() => read({ HF_TOKEN: 'two\nlines' }), /HF_TOKEN holds characters/)
    } finally {
      rmSync(home, { recursive: true })
    }
  })

  for (const value of ['1', 'on', 'Yes', 'TRUE']) {
    it(`is offline with ${value}`, () => {
      assert.ok(read({ HF_HUB_OFFLINE: value }).offline)
      assert.ok(read({ TRANSFORMERS_OFFLINE: value }).offline)
    })
  }

  it('is not offline with 0 or nothing', () => {
    for (const value of ['0', '', 'no', '2']) assert.ok(!read({ HF_HUB_OFFLINE: value }).offline)
  })
})
