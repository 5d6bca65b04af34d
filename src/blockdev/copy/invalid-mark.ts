/**
 * `<path>.invalid` stands beside an image while it is the target of a copy: from before its first byte is touched until its
 * cut succeeded. Whoever finds it after a crash knows that the image is neither the old nor the new contents. That it is there is
 * what counts: on a disk without room it stands empty.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readFileSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { codeOf } from '../../common/index.ts';
import { syncDirectory } from '../store/index.ts';

export interface InvalidMark {
  /** Durable when it returns; when it throws there is no new one. */
  set(reason: string): void;
  /** The reason it was set for, if it is set. */
  get(): string | undefined;
  clear(): void;
}

export function invalidMark(path: string): InvalidMark {
  const file = `${path}.invalid`;
  return {
    set(reason) {
      const stood = existsSync(file);
      try {
        const fd = openSync(file, 'w', 0o600);
        try {
          writeReason(fd, reason);
          fsyncSync(fd);
        } finally {
          closeSync(fd);
        }
        syncDirectory(dirname(file));
      } catch (error) {
        if (!stood) rmSync(file, { force: true });
        throw error;
      }
    },
    get: () => invalidReason(path),
    clear() {
      try {
        unlinkSync(file);
      } catch (error) {
        if (codeOf(error) !== 'ENOENT') throw error;
      }
      syncDirectory(dirname(file));
    },
  };
}

function writeReason(fd: number, reason: string): void {
  try {
    writeFileSync(fd, `${reason}\n`);
  } catch (error) {
    if (codeOf(error) !== 'ENOSPC') throw error;
  }
}

/** Why an image is invalid, or undefined when it is not. */
export function invalidReason(path: string): string | undefined {
  const file = `${path}.invalid`;
  if (!existsSync(file)) return undefined;
  return readFileSync(file, 'utf8').trim() || 'there was no room for the reason';
}
