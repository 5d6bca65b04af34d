import { CodedError } from '../../common/index.ts';

/** What stands in the way of mounting: the image, not an operation on a file. */
export class Ext4MountError extends CodedError {}

/** Text per errno name, as the C library has it. */
const TEXTS = {
  EACCES: 'permission denied',
  EBADF: 'bad file descriptor',
  EBUSY: 'resource busy or locked',
  EEXIST: 'file already exists',
  EFBIG: 'file too large',
  EINVAL: 'invalid argument',
  EIO: 'i/o error',
  EISDIR: 'illegal operation on a directory',
  ELOOP: 'too many symbolic links encountered',
  EMLINK: 'too many links',
  ENAMETOOLONG: 'name too long',
  ENODEV: 'no such device',
  ENOENT: 'no such file or directory',
  ENOMEM: 'not enough memory',
  ENOSPC: 'no space left on device',
  ENOSYS: 'function not implemented',
  ENOTDIR: 'not a directory',
  ENOTEMPTY: 'directory not empty',
  EOVERFLOW: 'value too large for defined data type',
  EPERM: 'operation not permitted',
  EROFS: 'read-only file system',
  ESTALE: 'the file was removed or replaced while it was open',
  EXDEV: 'cross-device link not permitted',
} as const;
export type FileErrno = keyof typeof TEXTS;

/** Linux numbers, negative, as `error.errno` of Node's own file system errors. */
const NUMBERS: Readonly<Record<FileErrno, number>> = {
  EPERM: -1,
  ENOENT: -2,
  EIO: -5,
  EBADF: -9,
  ENOMEM: -12,
  EACCES: -13,
  EBUSY: -16,
  EEXIST: -17,
  EXDEV: -18,
  ENODEV: -19,
  ENOTDIR: -20,
  EISDIR: -21,
  EINVAL: -22,
  EFBIG: -27,
  ENOSPC: -28,
  EROFS: -30,
  EMLINK: -31,
  ENAMETOOLONG: -36,
  ENOSYS: -38,
  ENOTEMPTY: -39,
  ELOOP: -40,
  EOVERFLOW: -75,
  ESTALE: -116,
};

/** An operation on a file failed; shaped as Node's own errors: `code`, `errno`, `syscall`, `path`, `dest`. */
export class FileError extends CodedError {
  declare readonly code: FileErrno;
  readonly errno: number;
  readonly syscall: string;
  readonly path: string | undefined;
  readonly dest: string | undefined;

  constructor(
    code: FileErrno,
    syscall: string,
    path?: string,
    options: { dest?: string; detail?: string; cause?: unknown } = {},
  ) {
    const what = `${path === undefined ? '' : ` '${path}'`}${options.dest === undefined ? '' : ` -> '${options.dest}'`}`;
    const detail = options.detail === undefined ? '' : ` (${options.detail})`;
    super(
      code,
      `${code}: ${TEXTS[code]}, ${syscall}${what}${detail}`,
      options.cause === undefined ? {} : { cause: options.cause },
    );
    this.errno = NUMBERS[code];
    this.syscall = syscall;
    this.path = path;
    this.dest = options.dest;
  }
}

export function isFileErrno(code: string | undefined): code is FileErrno {
  return code !== undefined && Object.hasOwn(TEXTS, code);
}

/** Error codes of libext2fs itself (its ext2_err.et, base 2133571328) that say something more exact than EIO. */
const LIBRARY_CODES: Readonly<Record<number, FileErrno>> = {
  2133571349: 'EROFS', // EXT2_ET_RO_FILSYS
  2133571366: 'ENOSPC', // EXT2_ET_DIR_NO_SPACE
  2133571372: 'ENOSPC', // EXT2_ET_TOOSMALL
  2133571392: 'ELOOP', // EXT2_ET_SYMLINK_LOOP
  2133571398: 'ENOMEM', // EXT2_ET_NO_MEMORY
  2133571399: 'EINVAL', // EXT2_ET_INVALID_ARGUMENT
  2133571400: 'ENOSPC', // EXT2_ET_BLOCK_ALLOC_FAIL
  2133571401: 'ENOSPC', // EXT2_ET_INODE_ALLOC_FAIL
  2133571402: 'ENOTDIR', // EXT2_ET_NO_DIRECTORY
  2133571404: 'ENOENT', // EXT2_ET_FILE_NOT_FOUND
  2133571405: 'EROFS', // EXT2_ET_FILE_RO
  2133571407: 'EEXIST', // EXT2_ET_DIR_EXISTS
  2133571410: 'EFBIG', // EXT2_ET_FILE_TOO_BIG
  2133571450: 'ENOSPC', // EXT2_ET_EXTENT_NO_SPACE
  2133571483: 'EEXIST', // EXT2_ET_FILE_EXISTS
};

/** The library's number → our error. */
export function fromLibrary(
  errno: number,
  name: string | undefined,
  syscall: string,
  path?: string,
): FileError {
  if (isFileErrno(name)) return new FileError(name, syscall, path);
  const code = LIBRARY_CODES[errno];
  if (code !== undefined) return new FileError(code, syscall, path);
  return new FileError('EIO', syscall, path, { detail: `libext2fs error ${errno}` });
}
