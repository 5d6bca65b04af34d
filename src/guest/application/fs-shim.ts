/**
 * `node:fs` and `node:fs/promises` as the programs of the guest see them: paths are the guest's, files are on its disks.
 *
 *   promises, callbacks, streams   all of them by Namespace, hence asynchronous as the disk is
 *   …Sync that read                answered from the unpacked copy of the program (its templates, its package.json)
 *   …Sync that write, and watching refused with the code ERR_GUEST_FS: nothing can wait synchronously for a network disk
 */
import * as hostFs from 'node:fs';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import type { Dirent, FileHandle, ReadStreamOptions, WriteStreamOptions } from '../../blockdev/index.ts';
import { FileError, readStream, writeStream } from '../../blockdev/index.ts';
import { CodedError } from '../../common/index.ts';
import type { Namespace } from '../namespace.ts';
import type { Scratch } from './unpack.ts';

export class GuestFsError extends CodedError {}

type Path = string | Buffer | URL;
type Encoding = BufferEncoding | 'buffer' | null | undefined;
type Options<T> = T | BufferEncoding | null | undefined;
// biome-ignore lint/suspicious/noExplicitAny: the face is Node's, whose overloads are checked by its users
type AnyFunction = (...args: any[]) => any;
type Callback = (error: unknown, ...results: unknown[]) => void;

export interface FsShim {
  /** `node:fs`. */
  readonly fs: Readonly<Record<string, unknown>>;
  /** `node:fs/promises`. */
  readonly promises: Readonly<Record<string, unknown>>;
}

/** Descriptors that programs got by the callback face. */
class Descriptors {
  readonly #open = new Map<number, FileHandle>();

  add(handle: FileHandle): number {
    this.#open.set(handle.fd, handle);
    return handle.fd;
  }

  get(fd: number, syscall: string): FileHandle {
    const handle = this.#open.get(fd);
    if (handle === undefined) throw new FileError('EBADF', syscall);
    return handle;
  }

  async close(fd: number): Promise<void> {
    const handle = this.get(fd, 'close');
    this.#open.delete(fd);
    await handle.close();
  }
}

export function createFsShim(tree: Namespace, scratch: Scratch): FsShim {
  const at = (path: Path) => scratch.guest(textOf(path));
  const promises = promiseFace(tree, at);
  const descriptors = new Descriptors();
  const fs = {
    ...callbackFace(promises, descriptors),
    ...streamFace(tree, at),
    ...syncFace(scratch, at),
    promises,
    constants: hostFs.constants,
    F_OK: hostFs.constants.F_OK,
    R_OK: hostFs.constants.R_OK,
    W_OK: hostFs.constants.W_OK,
    X_OK: hostFs.constants.X_OK,
    Stats: hostFs.Stats,
    Dirent: hostFs.Dirent,
  };
  return { fs, promises };
}

type Promises = ReturnType<typeof promiseFace>;

function promiseFace(tree: Namespace, at: (path: Path) => string) {
  const isHandle = (target: unknown): target is FileHandle =>
    typeof target === 'object' && target !== null && 'datasync' in target;
  return {
    constants: hostFs.constants,
    access: async (path: Path, mode = 0) => {
      const stats = await tree.stat(at(path));
      if ((mode & hostFs.constants.X_OK) !== 0 && (stats.mode & 0o111) === 0) {
        throw new FileError('EACCES', 'access', at(path));
      }
    },
    open: (path: Path, flags?: string | number, mode?: number) => tree.open(at(path), flags, mode),
    readFile: async (target: Path | FileHandle, options?: Options<{ encoding?: Encoding }>) => {
      const encoding = encodingOf(options);
      const bytes = isHandle(target) ? await target.readFile() : await tree.readFile(at(target));
      return encoding === undefined ? bytes : bytes.toString(encoding);
    },
    writeFile: async (
      target: Path | FileHandle,
      data: unknown,
      options?: Options<{ encoding?: BufferEncoding | null; mode?: number; flag?: string; flush?: boolean }>,
    ) => {
      const more = typeof options === 'object' && options !== null ? options : {};
      const bytes = await bytesOf(data, encodingOf(options));
      if (isHandle(target)) return target.writeFile(bytes);
      await tree.writeFile(at(target), bytes, more);
      if (more.flush === true) await tree.sync();
      return undefined;
    },
    appendFile: async (
      target: Path | FileHandle,
      data: unknown,
      options?: Options<{ encoding?: BufferEncoding | null; mode?: number; flush?: boolean }>,
    ) => {
      const more = typeof options === 'object' && options !== null ? options : {};
      const bytes = await bytesOf(data, encodingOf(options));
      if (isHandle(target)) return target.appendFile(bytes);
      await tree.writeFile(at(target), bytes, { ...more, flag: 'a' });
      if (more.flush === true) await tree.sync();
      return undefined;
    },
    stat: (path: Path) => tree.stat(at(path)),
    lstat: (path: Path) => tree.lstat(at(path)),
    statfs: async (path: Path) => (await tree.find(at(path))).fileSystem.statfs(),
    readdir: async (path: Path, options?: Options<{ withFileTypes?: boolean; recursive?: boolean }>) => {
      const more = typeof options === 'object' && options !== null ? options : {};
      const { fileSystem, path: inside } = await tree.find(at(path));
      return more.withFileTypes === true
        ? fileSystem.readdir(inside, { ...more, withFileTypes: true })
        : fileSystem.readdir(inside, { recursive: more.recursive === true });
    },
    opendir: async (path: Path) => {
      const entries = await tree.readdir(at(path));
      return directory(at(path), entries);
    },
    mkdir: (path: Path, options?: { recursive?: boolean; mode?: number } | number) =>
      tree.mkdir(at(path), typeof options === 'number' ? { mode: options } : options),
    mkdtemp: async (prefix: Path) => {
      for (;;) {
        const path = at(prefix) + Math.random().toString(36).slice(2, 8).padEnd(6, '0');
        if (await tree.exists(path)) continue;
        await tree.mkdir(path, { mode: 0o700 });
        return path;
      }
    },
    rm: (path: Path, options?: { recursive?: boolean; force?: boolean }) => tree.rm(at(path), options),
    rmdir: (path: Path) => tree.rmdir(at(path)),
    unlink: (path: Path) => tree.unlink(at(path)),
    rename: (from: Path, to: Path) => tree.rename(at(from), at(to)),
    copyFile: (from: Path, to: Path) => tree.copyFile(at(from), at(to)),
    link: (existing: Path, path: Path) => tree.link(at(existing), at(path)),
    symlink: (target: Path, path: Path) => tree.symlink(textOf(target), at(path)),
    readlink: (path: Path) => tree.readlink(at(path)),
    realpath: (path: Path) => tree.realpath(at(path)),
    truncate: (path: Path, length?: number) => tree.truncate(at(path), length),
    chmod: (path: Path, mode: number) => tree.chmod(at(path), mode),
    chown: (path: Path, uid: number, gid: number) => tree.chown(at(path), uid, gid),
    utimes: refused('utimes', 'the times of a file are set by its disk'),
    lutimes: refused('lutimes', 'the times of a file are set by its disk'),
    watch: refused('watch', 'poll with stat instead'),
    cp: refused('cp', 'use copyFile'),
    glob: refused('glob', 'use readdir with {recursive: true}'),
  };
}

/** Every function of the promise face with a callback as last argument, and those on descriptors. */
function callbackFace(promises: Promises, descriptors: Descriptors): Record<string, AnyFunction> {
  const face: Record<string, AnyFunction> = {};
  for (const [name, value] of Object.entries(promises)) {
    if (typeof value === 'function') face[name] = callbackOf(value as AnyFunction);
  }
  const on = (
    syscall: string,
    body: (handle: FileHandle, ...args: never[]) => Promise<unknown>,
  ): AnyFunction => callbackOf((fd: number, ...args: never[]) => body(descriptors.get(fd, syscall), ...args));
  face['open'] = callbackOf(async (path: Path, flags?: string | number, mode?: number) =>
    descriptors.add(await promises.open(path, flags, mode)),
  );
  face['close'] = callbackOf((fd: number) => descriptors.close(fd));
  face['fstat'] = on('fstat', (handle) => handle.stat());
  face['fsync'] = on('fsync', (handle) => handle.sync());
  face['fdatasync'] = on('fdatasync', (handle) => handle.datasync());
  face['ftruncate'] = on('ftruncate', (handle, length?: number) => handle.truncate(length));
  face['fchmod'] = on('fchmod', (handle, mode: number) => handle.chmod(mode));
  face['exists'] = (path: Path, done: (there: boolean) => void) => {
    promises.stat(path).then(
      () => done(true),
      () => done(false),
    );
  };
  face['read'] = (fd: number, ...args: unknown[]) => {
    const done = args.pop() as Callback;
    const [buffer, offset, length, position] = args as [Buffer, number?, number?, number?];
    settle(
      async () => descriptors.get(fd, 'read').read(buffer, offset, length, position),
      (error, result) => {
        const { bytesRead = 0, buffer: filled } = (result ?? {}) as { bytesRead?: number; buffer?: unknown };
        done(error, bytesRead, filled);
      },
    );
  };
  face['write'] = (fd: number, ...args: unknown[]) => {
    const done = args.pop() as Callback;
    const [data, a, b, c] = args as [Buffer | string, number?, (number | BufferEncoding)?, number?];
    settle(
      async () => descriptors.get(fd, 'write').write(data, a, b, c),
      (error, result) => {
        const { bytesWritten = 0 } = (result ?? {}) as { bytesWritten?: number };
        done(error, bytesWritten, data);
      },
    );
  };
  return face;
}

function streamFace(tree: Namespace, at: (path: Path) => string) {
  return {
    createReadStream: (path: Path, options?: Options<ReadStreamOptions & { flags?: string }>): Readable => {
      const more = typeof options === 'string' ? { encoding: options } : (options ?? {});
      const stream = readStream(tree.open(at(path), (more as { flags?: string }).flags ?? 'r'), more);
      return Object.assign(stream, { path: textOf(path) });
    },
    createWriteStream: (
      path: Path,
      options?: Options<WriteStreamOptions & { flags?: string; mode?: number }>,
    ): Writable => {
      const more = typeof options === 'string' ? { encoding: options } : (options ?? {});
      const { flags = 'w', mode } = more as { flags?: string; mode?: number };
      return Object.assign(writeStream(tree.open(at(path), flags, mode), more), { path: textOf(path) });
    },
  };
}

const SYNC_READS = [
  'readFileSync',
  'statSync',
  'lstatSync',
  'readdirSync',
  'accessSync',
  'realpathSync',
  'readlinkSync',
];
const SYNC_REFUSED = [
  'appendFileSync',
  'chmodSync',
  'chownSync',
  'closeSync',
  'copyFileSync',
  'cpSync',
  'fdatasyncSync',
  'fstatSync',
  'fsyncSync',
  'ftruncateSync',
  'linkSync',
  'mkdirSync',
  'mkdtempSync',
  'openSync',
  'opendirSync',
  'readSync',
  'readvSync',
  'renameSync',
  'rmSync',
  'rmdirSync',
  'symlinkSync',
  'truncateSync',
  'unlinkSync',
  'utimesSync',
  'writeFileSync',
  'writeSync',
  'writevSync',
  'watch',
  'watchFile',
  'unwatchFile',
];

function syncFace(scratch: Scratch, at: (path: Path) => string): Record<string, AnyFunction> {
  const face: Record<string, AnyFunction> = {};
  for (const name of SYNC_READS) {
    const original = (hostFs as unknown as Record<string, AnyFunction>)[name]!;
    face[name] = (path: Path, ...args: unknown[]) => {
      const guest = at(path);
      const host = scratch.host(guest);
      if (!hostFs.existsSync(host)) throw notUnpacked(name, guest);
      const result = original(host, ...args);
      return typeof result === 'string' && name !== 'readFileSync' ? scratch.guest(result) : result;
    };
  }
  (face['realpathSync'] as AnyFunction & { native?: AnyFunction }).native = face['realpathSync']!;
  face['existsSync'] = (path: Path) => hostFs.existsSync(scratch.host(at(path)));
  for (const name of SYNC_REFUSED) {
    const remedy = name.endsWith('Sync')
      ? `use ${name.slice(0, -4)} of node:fs/promises`
      : 'poll with stat of node:fs/promises instead';
    face[name] = () => {
      throw new GuestFsError('ERR_GUEST_FS', `fs.${name} is not supported in a partition of kind process`, {
        remedy,
      });
    };
  }
  return face;
}

function notUnpacked(name: string, path: string): GuestFsError {
  return new GuestFsError(
    'ENOENT',
    `ENOENT: fs.${name}: '${path}' is not in the program's folder; synchronous reads see nothing else`,
    { remedy: `use ${name.replace(/Sync$/, '')} of node:fs/promises`, values: { path } },
  );
}

function refused(name: string, remedy: string): () => Promise<never> {
  return async () => {
    throw new GuestFsError('ERR_GUEST_FS', `fs.${name} is not supported in a partition of kind process`, {
      remedy,
    });
  };
}

function callbackOf(body: AnyFunction): AnyFunction {
  return (...args: unknown[]) => {
    const done = args.pop();
    if (typeof done !== 'function') throw new TypeError('the last argument must be a callback');
    settle(async () => body(...args), done as Callback);
  };
}

/** A callback that throws must end as an uncaught exception, not as a rejection of our own promise. */
function settle(body: () => Promise<unknown>, done: Callback): void {
  body().then(
    (result) => process.nextTick(() => (result === undefined ? done(null) : done(null, result))),
    (error) => process.nextTick(() => done(error)),
  );
}

function directory(path: string, entries: readonly Dirent[]) {
  let next = 0;
  return {
    path,
    read: async () => entries[next++] ?? null,
    close: async () => {},
    async *[Symbol.asyncIterator]() {
      yield* entries;
    },
  };
}

function textOf(path: Path): string {
  if (typeof path === 'string') return absolute(path);
  if (path instanceof URL) return fileURLToPath(path);
  return absolute(path.toString('utf8'));
}

function absolute(path: string): string {
  return path.startsWith('/') ? path : `${process.cwd()}/${path}`;
}

function encodingOf(options: unknown): BufferEncoding | undefined {
  const encoding =
    typeof options === 'string' ? options : (options as { encoding?: Encoding } | null | undefined)?.encoding;
  return encoding === undefined || encoding === null || encoding === 'buffer'
    ? undefined
    : (encoding as BufferEncoding);
}

async function bytesOf(data: unknown, encoding: BufferEncoding | undefined): Promise<Uint8Array> {
  if (typeof data === 'string') return Buffer.from(data, encoding ?? 'utf8');
  if (data instanceof Uint8Array) return data;
  if (ArrayBuffer.isView(data)) return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  if (
    typeof data === 'object' &&
    data !== null &&
    (Symbol.asyncIterator in data || Symbol.iterator in data)
  ) {
    const parts: Uint8Array[] = [];
    for await (const part of data as AsyncIterable<string | Uint8Array>) {
      parts.push(typeof part === 'string' ? Buffer.from(part, encoding ?? 'utf8') : part);
    }
    return Buffer.concat(parts);
  }
  throw new TypeError(`data must be a string, a buffer or iterable, not ${typeof data}`);
}
