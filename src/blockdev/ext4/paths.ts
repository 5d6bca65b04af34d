import { posix } from 'node:path';
import { FileError } from './errors.ts';

/** Bytes of one name. */
export const NAME_MAX = 255;

/** The path, normalized; EINVAL unless it is absolute. */
export function absolute(path: string, syscall: string): string {
  if (!path.startsWith('/')) {
    throw new FileError('EINVAL', syscall, path, { detail: 'paths of a guest are absolute' });
  }
  if (path.includes('\0')) throw new FileError('EINVAL', syscall, path.replaceAll('\0', '\\0'));
  const normal = posix.normalize(path);
  return normal.length > 1 && normal.endsWith('/') ? normal.slice(0, -1) : normal;
}

/** For `catch`: nothing where nothing is. */
export function absent(error: unknown): undefined {
  if (error instanceof FileError && error.code === 'ENOENT') return undefined;
  throw error;
}

/** Errors of inner calls carry the caller's syscall and path. */
export function named(error: unknown, syscall: string, path: string): unknown {
  if (!(error instanceof FileError) || (error.path !== undefined && error.syscall === syscall)) return error;
  return new FileError(error.code, syscall, error.path ?? path, {
    cause: error.cause ?? error,
    ...(error.dest === undefined ? {} : { dest: error.dest }),
  });
}
