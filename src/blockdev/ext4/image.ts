import { execFile } from 'node:child_process';
import { open, rm } from 'node:fs/promises';
import { CodedError, codeOf, messageOf } from '../../common/index.ts';

export class ImageError extends CodedError {}

/** mke2fs gives smaller ones no journal, without which they could only be read. */
const MIN_SIZE = 8 * 1024 * 1024;

export interface ImageOptions {
  /** File to make; an existing one is refused unless `replace`. */
  readonly path: string;
  readonly sizeBytes: number;
  /** Host directory whose contents the file system starts with. */
  readonly fromDirectory?: string;
  /** At most 16 bytes. */
  readonly label?: string;
  readonly replace?: boolean;
}

/**
 * Makes a sparse file with an ext4 file system in it, without mounting anything (`mke2fs -d`).
 * Throws ImageError: `mke2fs-missing`, `mke2fs-failed`, `exists`, `bad-size`.
 */
export async function createImage(options: ImageOptions): Promise<void> {
  const { path, sizeBytes, fromDirectory, label } = options;
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < MIN_SIZE) {
    throw new ImageError('bad-size', `an ext4 image needs at least 8 MiB, not ${sizeBytes} bytes`, {
      values: { sizeBytes },
      remedy: `give the size in bytes, ${MIN_SIZE} or more`,
    });
  }
  await allocate(path, sizeBytes, options.replace === true);
  const args = ['-q', '-F', '-t', 'ext4', '-b', '4096', '-E', 'lazy_itable_init=0,root_owner=0:0'];
  if (label !== undefined) args.push('-L', label);
  if (fromDirectory !== undefined) args.push('-d', fromDirectory);
  try {
    await mke2fs([...args, path]);
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  }
}

async function allocate(path: string, sizeBytes: number, replace: boolean): Promise<void> {
  try {
    const handle = await open(path, replace ? 'w' : 'wx', 0o600);
    try {
      await handle.truncate(sizeBytes);
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error;
    throw new ImageError('exists', `${path} is there already`, {
      values: { path },
      remedy: 'choose another name, or remove it first',
      cause: error,
    });
  }
}

function mke2fs(args: readonly string[]): Promise<void> {
  // Debian keeps it in /usr/sbin, which is not in everybody's PATH.
  const env = { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`, MKE2FS_SYNC: '0' };
  return new Promise((resolve, reject) => {
    execFile('mke2fs', args, { env }, (error, _stdout, stderr) => {
      if (error === null) resolve();
      else if (codeOf(error) === 'ENOENT') {
        reject(
          new ImageError('mke2fs-missing', 'mke2fs is not installed', {
            remedy: 'apt-get install e2fsprogs',
            cause: error,
          }),
        );
      } else {
        reject(
          new ImageError('mke2fs-failed', `mke2fs: ${stderr.trim() || messageOf(error)}`, {
            values: { arguments: args },
            cause: error,
          }),
        );
      }
    });
  });
}
