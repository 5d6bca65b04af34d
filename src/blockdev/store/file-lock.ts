/**
 * One opener per image file. `<path>.lock` holds the owner's pid and its start time (field 22 of /proc/<pid>/stat), so that
 * a lock left by a killed process, or by one whose pid was given to another program, is recognised and replaced.
 */
import { linkSync, readFileSync, realpathSync, renameSync, unlinkSync, writeFileSync } from 'node:fs';
import { CodedError, codeOf } from '../../common/index.ts';

export class StoreError extends CodedError {}

const held = new Set<string>();

function startTime(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The command name (field 2) may hold blanks and brackets: count from its closing one.
    return stat
      .slice(stat.lastIndexOf(')') + 2)
      .split(' ')
      .at(19);
  } catch {
    return undefined;
  }
}

interface Owner {
  readonly pid: number;
  readonly started: string;
}

function readOwner(file: string): Owner | undefined {
  try {
    const [pid, started] = readFileSync(file, 'utf8').trim().split(' ');
    return { pid: Number(pid), started: started ?? '' };
  } catch {
    return undefined;
  }
}

/** Takes the lock or throws StoreError `in-use`. Returns the function that gives it back. */
export function lockFile(path: string): () => void {
  const real = realpathSync(path);
  const file = `${real}.lock`;
  if (held.has(real)) throw inUse(path, process.pid);
  const mine = `${file}.${process.pid}`;
  writeFileSync(mine, `${process.pid} ${startTime(process.pid) ?? ''}\n`, { mode: 0o600 });
  try {
    for (let attempt = 0; ; attempt++) {
      try {
        linkSync(mine, file);
        break;
      } catch (error) {
        if (codeOf(error) !== 'EEXIST' || attempt > 8) throw error;
      }
      const owner = readOwner(file);
      if (owner !== undefined && startTime(owner.pid) === owner.started) throw inUse(path, owner.pid);
      // Stale. Only one of several contenders gets to take it away: rename fails for the others.
      try {
        renameSync(file, `${mine}.stale`);
        unlinkSync(`${mine}.stale`);
      } catch (error) {
        if (codeOf(error) !== 'ENOENT') throw error;
      }
    }
  } finally {
    unlinkSync(mine);
  }
  held.add(real);
  return () => {
    if (!held.delete(real)) return;
    if (readOwner(file)?.pid === process.pid) unlinkSync(file);
  };
}

function inUse(path: string, pid: number): StoreError {
  return new StoreError('in-use', `${path} is already open as a disk, by process ${pid}`, {
    remedy: 'remove it there first; one file can be one disk only',
    values: { path, pid },
  });
}
