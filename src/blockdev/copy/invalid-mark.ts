/**
 * `<path>.invalid` stands beside an image while it is the target of a copy: from before its first byte is touched until its
 * cut succeeded. Whoever finds it after a crash knows that the image is neither the old nor the new contents.
 */
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, unlinkSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { codeOf } from '../../common/index.ts';
import { syncDirectory } from '../store/index.ts';

export interface InvalidMark {
  /** Durable when it returns. */
  set(reason: string): void;
  /** The reason it was set for, if it is set. */
  get(): string | undefined;
  clear(): void;
}

export function invalidMark(path: string): InvalidMark {
  const file = `${path}.invalid`;
  return {
    set(reason) {
      const fd = openSync(file, 'w', 0o600);
      try {
        writeSync(fd, `${reason}\n`);
        fsyncSync(fd);
      } finally {
        closeSync(fd);
      }
      syncDirectory(dirname(file));
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

/** Why an image is invalid, or undefined when it is not. */
export function invalidReason(path: string): string | undefined {
  const file = `${path}.invalid`;
  return existsSync(file) ? readFileSync(file, 'utf8').trim() : undefined;
}
