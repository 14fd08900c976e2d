import { homedir } from 'node:os'
import { isAbsolute, join, resolve } from 'node:path'

/**
 * The folder for what tutti can make or fetch again: TUTTI_CACHE_DIR, or `tutti` where this system keeps such things.
 * Undefined where this user has no home. It need not exist.
 */
export function cacheFolder(env = process.env, platform = process.platform, home = homeFolder): string | undefined {
  if (env.TUTTI_CACHE_DIR) return resolve(env.TUTTI_CACHE_DIR)
  const { XDG_CACHE_HOME: xdg, LOCALAPPDATA: local } = env
  if (xdg && isAbsolute(xdg)) return join(xdg, 'tutti') // a relative one is to be ignored, by the XDG specification
  if (platform === 'win32' && local) return join(local, 'tutti', 'Cache')
  const at = home()
  return at && join(at, platform === 'darwin' ? 'Library/Caches' : '.cache', 'tutti')
}

function homeFolder(): string | undefined {
  try {
    return homedir() || undefined
  } catch {
    return undefined // no HOME, and no entry for this user, as in some containers
  }
}
