/**
 * One opener per image file. `<path>.lock` holds the owner's pid and its start time (field 22 of /proc/<pid>/stat), so that
 * a lock left by a killed process, or by one whose pid was given to another program, is recognised and replaced. It is the target of
 * a symbolic link: made in one step with its contents, and it needs no room, so that a disk can be opened where there is none left.
 */
import { readFileSync, readlinkSync, realpathSync, renameSync, symlinkSync, unlinkSync } from 'node:fs';
import { CodedError, codeOf } from '../../common/index.ts';

export class StoreError extends CodedError {}

const held = new Set<string>();

/** Undefined when no such process has files open any more: also one that has ended and that nobody waited for. */
function startTime(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The command name (field 2) may hold blanks and brackets: count from its closing one.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const [state, threads, started] = [fields[0], fields[17], fields[19]];
    // The last of its threads closes the files, not the first.
    return state === 'Z' && Number(threads) <= 1 ? undefined : started;
  } catch {
    return undefined;
  }
}

interface Owner {
  readonly pid: number;
  readonly started: string;
}

/** What a lock says: the target of a symbolic link, or the text of a file that somebody put there. */
function readLock(file: string): string | undefined {
  try {
    return readlinkSync(file);
  } catch (error) {
    if (codeOf(error) !== 'EINVAL') return undefined;
  }
  try {
    return readFileSync(file, 'utf8').trim();
  } catch {
    return undefined;
  }
}

function ownerOf(text: string | undefined): Owner | undefined {
  if (text === undefined) return undefined;
  const [pid, started] = text.split(' ');
  return { pid: Number(pid), started: started ?? '' };
}

/** Takes the lock or throws StoreError `in-use`. Returns the function that gives it back. */
export function lockFile(path: string): () => void {
  const real = realpathSync(path);
  const file = `${real}.lock`;
  if (held.has(real)) throw inUse(path, process.pid);
  for (let attempt = 0; ; attempt++) {
    try {
      symlinkSync(`${process.pid} ${startTime(process.pid) ?? ''}`, file);
      break;
    } catch (error) {
      if (codeOf(error) !== 'EEXIST' || attempt > 8) throw error;
    }
    const found = readLock(file);
    const owner = ownerOf(found);
    if (owner !== undefined && startTime(owner.pid) === owner.started) throw inUse(path, owner.pid);
    takeAway(file, found);
  }
  held.add(real);
  return () => {
    if (!held.delete(real)) return;
    if (ownerOf(readLock(file))?.pid === process.pid) unlinkSync(file);
  };
}

/** Takes a stale lock away. Of several contenders the first one does; what another one put there meanwhile is put back. */
function takeAway(file: string, stale: string | undefined): void {
  const moved = `${file}.${process.pid}`;
  try {
    renameSync(file, moved);
    if (readLock(moved) === stale) unlinkSync(moved);
    else renameSync(moved, file);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error;
  }
}

function inUse(path: string, pid: number): StoreError {
  return new StoreError('in-use', `${path} is already open as a disk, by process ${pid}`, {
    remedy: 'remove it there first; one file can be one disk only',
    values: { path, pid },
  });
}
