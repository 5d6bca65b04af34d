/**
 * `<path>.failed` stands beside an image since a flush of it failed. The kernel reports a failed write-back once and forgets the
 * pages: without it, the next process would flush the same file and be told that all is well. A person takes it away who has
 * looked at the disk below, or replaced the image.
 *
 * Left open: a process that is killed between the kernel's answer and the note, some microseconds.
 */
import { closeSync, fsyncSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { codeOf } from '../../common/index.ts';
import { syncDirectory } from './file-store.ts';

/** Notes that a flush failed; as durable as a disk that fails lets it be. Never throws. */
export function noteFailed(path: string, reason: string): void {
  try {
    const fd = openSync(`${path}.failed`, 'w', 0o600);
    try {
      writeFileSync(fd, `${reason}\n`);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    syncDirectory(dirname(path));
  } catch {
    // Its directory may be on the disk that fails.
  }
}

/** What was noted, or undefined. Throws an errno when it cannot be read. */
export function failedReason(path: string): string | undefined {
  try {
    return readFileSync(`${path}.failed`, 'utf8').trim();
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}
