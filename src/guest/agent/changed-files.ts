/** Which files of the system disk were written since an instant: what a copy that was cut at that instant does not have. */
import { posix } from 'node:path';
import type { GuestCommands } from '../../channel/index.ts';
import { codeOf } from '../../common/index.ts';
import { GuestError } from '../errors.ts';
import type { Namespace } from '../namespace.ts';

type Changed = GuestCommands['changeover-changed-files']['result'];

const MAX_LIMIT = 10_000;

/**
 * Walks the tree below `under`, without what is mounted in it. Files that vanish meanwhile are left out. The file system's times
 * have the resolution of a second: what was written within the second of `sinceMs` is named, too.
 */
export async function changedFiles(
  tree: Namespace,
  sinceMs: number,
  limit: number,
  under: readonly string[] = ['/'],
): Promise<Changed> {
  if (!(limit >= 1 && limit <= MAX_LIMIT))
    throw new GuestError('bad-argument', `limit must be 1 to ${MAX_LIMIT}`);
  const since = sinceMs - (sinceMs % 1000);
  const mounted = tree.mountPoints().filter((at) => at !== '/');
  const files: Changed['files'] = [];
  const waiting = under.map((path) => posix.normalize(path));
  while (waiting.length > 0) {
    const path = waiting.pop()!;
    if (mounted.includes(path)) continue;
    try {
      const stats = await tree.lstat(path);
      if (stats.isDirectory()) {
        for (const entry of await tree.readdir(path)) waiting.push(posix.join(path, entry.name));
      } else if (stats.isFile() && Math.max(stats.mtimeMs, stats.ctimeMs) >= since) {
        if (files.length >= limit) return { files: sorted(files), more: true };
        files.push({ path, size: stats.size, changedMs: Math.max(stats.mtimeMs, stats.ctimeMs) });
      }
    } catch (error) {
      if (codeOf(error) !== 'ENOENT') throw error;
    }
  }
  return { files: sorted(files), more: false };
}

function sorted(files: Changed['files']): Changed['files'] {
  return files.sort((a, b) => (a.path < b.path ? -1 : 1));
}
