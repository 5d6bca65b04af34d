/**
 * An ext4 file system in user space, over any Device. The face is that of `node:fs/promises`.
 *
 * Layers: this file (names, handles, commits) → LibrarySession (libext2fs) → PageCache (write-back) → Device.
 *
 * Commits. Operations change the page cache only. `sync` makes one commit: what libext2fs still holds in its own memory
 * (superblock, group descriptors, bitmaps) is put into the cache by unmounting it there, then the changed sectors are
 * written and the device is flushed; libext2fs is mounted again from the cache when next needed (half a millisecond).
 * A write that allocated nothing leaves those tables alone, so its commit skips the unmount: two sectors and a flush.
 * Overlapping calls of `sync` share commits. The device holds a consistent file system before and after every commit; a
 * process killed inside of one leaves a part of the sectors, which `e2fsck -p` repairs.
 *
 * Open files of libext2fs are cached by path and inode; they do not outlive its unmounting or a change of names.
 */
import { posix } from 'node:path';
import type { Device } from '../device.ts';
import { Ext4MountError, FileError } from './errors.ts';
import { FileHandle } from './file-handle.ts';
import type { LibraryFile, RawStat } from './library.ts';
import { LibrarySession, O } from './library.ts';
import { Lock } from './lock.ts';
import type { CacheCounters } from './page-cache.ts';
import { PAGE_SIZE, PageCache } from './page-cache.ts';
import type { DirectoryEntry } from './stats.ts';
import { Dirent, hasRoom, isDirectoryMode, isFileMode, parseDirectory, Stats } from './stats.ts';
import type { Superblock } from './superblock.ts';
import { parseSuperblock, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE } from './superblock.ts';

export interface MountOptions {
  readonly readOnly?: boolean;
  /** Changes are committed by themselves when they are this old; 0 (the default) = never. */
  readonly writebackMs?: number;
  /** Largest amount of memory for clean pages, default 64 MiB. */
  readonly cacheBytes?: number;
}

/** The library takes file positions as 32-bit unsigned integers and keeps the last value for itself. */
export const MAX_FILE_SIZE = 0xffff_fffe;
/** Shortening a file rewrites what stays. */
const MAX_TRUNCATED_SIZE = 256 * 1024 * 1024;
const MAX_DIRTY_PAGES = (16 * 1024 * 1024) / PAGE_SIZE;
const MAX_OPEN_FILES = 64;
const NAME_MAX = 255;

export type WritePosition = number | 'end';

interface OpenFile {
  readonly file: LibraryFile;
  readonly ino: number;
}

/** Throws Ext4MountError when the disk does not hold an ext4 file system that can be mounted. */
export async function mountExt4(device: Device, options: MountOptions = {}): Promise<FileSystem> {
  if (device.size < BigInt(SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE)) {
    throw new Ext4MountError('not-ext4', `a disk of ${device.size} bytes cannot hold an ext4 file system`, {
      remedy: 'make one with `mke2fs -t ext4 FILE`, or name the right image',
    });
  }
  const bytes = Buffer.alloc(SUPERBLOCK_SIZE);
  await device.readAt(bytes, BigInt(SUPERBLOCK_OFFSET));
  const fileSystem = new FileSystem(device, parseSuperblock(bytes, device.size), options);
  await fileSystem.stat('/');
  return fileSystem;
}

export class FileSystem {
  readonly readOnly: boolean;
  readonly #device: Device;
  readonly #superblock: Superblock;
  readonly #cache: PageCache;
  readonly #lock = new Lock();
  readonly #writebackMs: number;
  readonly #handles = new Set<FileHandle>();
  readonly #files = new Map<string, OpenFile>();
  #session: LibrarySession | undefined;
  /** Something changed since the last commit was taken. */
  #changed = false;
  /** … and libext2fs holds tables that are not in the cache. */
  #tables = false;
  #running: Promise<void> = Promise.resolve();
  #waiting: Promise<void> | undefined;
  #thawed: { promise: Promise<void>; resolve: () => void } | undefined;
  #writeback: NodeJS.Timeout | undefined;
  #unmounted = false;

  /** Use `mountExt4`. */
  constructor(device: Device, superblock: Superblock, options: MountOptions) {
    this.#device = device;
    this.#superblock = superblock;
    this.readOnly = options.readOnly === true || device.capabilities.readOnly;
    this.#writebackMs = options.writebackMs ?? 0;
    this.#cache = new PageCache(device, Math.ceil((options.cacheBytes ?? 64 * 1024 * 1024) / PAGE_SIZE));
  }

  get blockSize(): number {
    return this.#superblock.blockSize;
  }

  get label(): string {
    return this.#superblock.label;
  }

  get uuid(): string {
    return this.#superblock.uuid;
  }

  counters(): CacheCounters {
    return this.#cache.counters();
  }

  /** Sizes as of the last commit. */
  async statfs(): Promise<{
    bsize: number;
    blocks: number;
    bfree: number;
    bavail: number;
    files: number;
    ffree: number;
  }> {
    await this.sync();
    const bytes = Buffer.alloc(SUPERBLOCK_SIZE);
    await this.#lock.run(() => this.#cache.read(bytes, 0, SUPERBLOCK_SIZE, SUPERBLOCK_OFFSET));
    const now = parseSuperblock(bytes, this.#device.size);
    return {
      bsize: now.blockSize,
      blocks: now.blocks,
      bfree: now.freeBlocks,
      bavail: now.freeBlocks,
      files: now.inodes,
      ffree: now.freeInodes,
    };
  }

  // ── durability ────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Returns when everything that was done before the call is durable. Throws what the device failed with; from then on
   * the file system refuses every change.
   */
  sync(): Promise<void> {
    if (this.#waiting !== undefined) return this.#waiting;
    const before = this.#running;
    const commit = (async () => {
      await before.catch(() => {});
      const taken = await this.#lock.run(() => {
        this.#waiting = undefined;
        return this.#collect();
      });
      await taken?.write();
    })();
    this.#waiting = commit;
    this.#running = commit;
    return commit;
  }

  /** Commits, and keeps every further change waiting until `thaw`. */
  async freeze(): Promise<void> {
    if (this.#thawed === undefined) {
      let resolve = () => {};
      const promise = new Promise<void>((r) => {
        resolve = r;
      });
      this.#thawed = { promise, resolve };
    }
    // Changes that passed the gate before it closed are in the lock's queue.
    await this.#lock.run(() => {});
    await this.sync();
    if (this.#changed) await this.sync();
  }

  thaw(): void {
    this.#thawed?.resolve();
    this.#thawed = undefined;
  }

  get frozen(): boolean {
    return this.#thawed !== undefined;
  }

  /** Commits and gives the disk up; the device stays open. Handles are closed. Idempotent. */
  async unmount(): Promise<void> {
    if (this.#unmounted) return;
    this.thaw();
    try {
      await this.#lock.run(() => {});
      await this.sync();
      if (this.#changed) await this.sync();
    } finally {
      this.#unmounted = true;
      clearTimeout(this.#writeback);
      for (const handle of this.#handles) handle.invalidate();
      this.#handles.clear();
      await this.#lock.run(() => this.#endSession()).catch(() => {});
    }
  }

  /** Gives the disk up without committing: it stays as the last commit left it. */
  abandon(): void {
    this.#unmounted = true;
    clearTimeout(this.#writeback);
    this.thaw();
    for (const handle of this.#handles) handle.invalidate();
    this.#handles.clear();
    this.#lock.run(() => this.#endSession()).catch(() => {});
  }

  /** Under the lock: everything that differs from the device, at one instant. */
  async #collect(): Promise<{ write(): Promise<void> } | undefined> {
    clearTimeout(this.#writeback);
    this.#writeback = undefined;
    if (this.#cache.failure !== undefined) throw this.#failed('fsync');
    if (!this.#changed) return undefined;
    if (this.#tables) await this.#endSession();
    this.#changed = false;
    this.#tables = false;
    return this.#cache.takeDirty();
  }

  async #endSession(): Promise<void> {
    const session = this.#session;
    if (session === undefined) return;
    await this.#closeFiles(session);
    this.#session = undefined;
    await session.unmount();
  }

  // ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  stat(path: string): Promise<Stats> {
    return this.#read(
      'stat',
      path,
      async (lib, at) => new Stats(await this.#rawStat(lib, at), this.blockSize),
    );
  }

  lstat(path: string): Promise<Stats> {
    return this.#read('lstat', path, async (lib, at) => {
      return new Stats(await this.#rawStat(lib, at, O.NOFOLLOW), this.blockSize);
    });
  }

  async access(path: string, _mode = 0): Promise<void> {
    await this.#read('access', path, (lib, at) => this.#rawStat(lib, at));
  }

  async exists(path: string): Promise<boolean> {
    try {
      await this.stat(path);
      return true;
    } catch (error) {
      if (error instanceof FileError && (error.code === 'ENOENT' || error.code === 'ENOTDIR')) return false;
      throw error;
    }
  }

  readdir(path: string, options?: { withFileTypes?: false; recursive?: boolean }): Promise<string[]>;
  readdir(path: string, options: { withFileTypes: true; recursive?: boolean }): Promise<Dirent[]>;
  async readdir(
    path: string,
    options: { withFileTypes?: boolean; recursive?: boolean } = {},
  ): Promise<string[] | Dirent[]> {
    const top = absolute(path, 'scandir');
    const found: Dirent[] = [];
    const queue = [top];
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const directory = next;
      const entries = await this.#read('scandir', directory, (lib, at) => this.#entries(lib, at));
      for (const entry of entries) {
        found.push(new Dirent(entry.name, directory, entry.type));
        if (options.recursive === true && entry.type === 'directory')
          queue.push(posix.join(directory, entry.name));
      }
    }
    if (options.withFileTypes === true) return found;
    return found.map((entry) => posix.relative(top, posix.join(entry.parentPath, entry.name)));
  }

  readlink(path: string): Promise<string> {
    return this.#read('readlink', path, async (lib, at) => {
      await this.#rawStat(lib, at, O.NOFOLLOW);
      return lib.readlink(at);
    });
  }

  /** Resolves every symbolic link. */
  async realpath(path: string): Promise<string> {
    let parts = absolute(path, 'realpath').split('/').filter(Boolean);
    let done = '/';
    for (let links = 0; parts.length > 0; ) {
      const next = posix.join(done, parts[0]!);
      const stats = await this.lstat(next);
      parts = parts.slice(1);
      if (!stats.isSymbolicLink()) {
        done = next;
        continue;
      }
      if (++links > 40) throw new FileError('ELOOP', 'realpath', path);
      const target = posix.resolve(done, await this.readlink(next));
      parts = [...target.split('/').filter(Boolean), ...parts];
      done = '/';
    }
    return done;
  }

  /** Returns the first directory made when `recursive`. */
  async mkdir(
    path: string,
    options: { recursive?: boolean; mode?: number } | number = {},
  ): Promise<string | undefined> {
    const { recursive = false, mode = 0o777 } = typeof options === 'number' ? { mode: options } : options;
    const at = absolute(path, 'mkdir');
    if (!recursive) {
      await this.#mkdirOne(at, mode);
      return undefined;
    }
    let first: string | undefined;
    let current = '';
    for (const part of at.split('/').filter(Boolean)) {
      current += `/${part}`;
      try {
        await this.#mkdirOne(current, mode);
        first ??= current;
      } catch (error) {
        if (!(error instanceof FileError) || error.code !== 'EEXIST') throw error;
        if (!(await this.stat(current)).isDirectory()) {
          throw current === at ? error : new FileError('ENOTDIR', 'mkdir', path);
        }
      }
    }
    return first;
  }

  #mkdirOne(path: string, mode: number): Promise<void> {
    return this.#change('mkdir', path, async (lib, at) => {
      await this.#mustNotExist(lib, at, 'mkdir');
      await this.#makeRoom(lib, at, 'mkdir');
      await this.#renaming(lib);
      await lib.mkdir(at, mode & 0o7777 & ~0o022);
    });
  }

  rmdir(path: string): Promise<void> {
    return this.#change('rmdir', path, async (lib, at) => {
      const stat = await this.#rawStat(lib, at, O.NOFOLLOW);
      if (!isDirectoryMode(stat.mode)) throw new FileError('ENOTDIR', 'rmdir', at);
      if (at === '/') throw new FileError('EBUSY', 'rmdir', at);
      if ((await this.#entries(lib, at)).length > 0) throw new FileError('ENOTEMPTY', 'rmdir', at);
      await this.#renaming(lib);
      await lib.rmdir(at);
    });
  }

  unlink(path: string): Promise<void> {
    return this.#change('unlink', path, async (lib, at) => {
      const stat = await this.#rawStat(lib, at, O.NOFOLLOW);
      if (isDirectoryMode(stat.mode)) throw new FileError('EISDIR', 'unlink', at);
      await this.#renaming(lib);
      await lib.unlink(at);
      this.#forget(at);
    });
  }

  async rm(path: string, options: { recursive?: boolean; force?: boolean } = {}): Promise<void> {
    const at = absolute(path, 'rm');
    let stats: Stats;
    try {
      stats = await this.lstat(at);
    } catch (error) {
      if (options.force === true && error instanceof FileError && error.code === 'ENOENT') return;
      throw error;
    }
    if (!stats.isDirectory()) return this.unlink(at);
    if (options.recursive !== true) throw new FileError('EISDIR', 'rm', path);
    for (const name of await this.readdir(at)) await this.rm(posix.join(at, name), { recursive: true });
    await this.rmdir(at);
  }

  /** A file at `to` is replaced. */
  async rename(from: string, to: string): Promise<void> {
    const target = absolute(to, 'rename');
    await this.#change('rename', from, async (lib, at) => {
      if (at === '/' || target.startsWith(`${at}/`)) {
        throw new FileError('EINVAL', 'rename', at, { dest: target });
      }
      const source = await this.#rawStat(lib, at, O.NOFOLLOW);
      const there = await this.#rawStat(lib, target, O.NOFOLLOW).catch(absent);
      if (there?.ino === source.ino) return;
      if (there !== undefined) {
        if (isDirectoryMode(there.mode) && !isDirectoryMode(source.mode)) {
          throw new FileError('EISDIR', 'rename', at, { dest: target });
        }
        if (!isDirectoryMode(there.mode) && isDirectoryMode(source.mode)) {
          throw new FileError('ENOTDIR', 'rename', at, { dest: target });
        }
        if (isDirectoryMode(there.mode) && (await this.#entries(lib, target)).length > 0) {
          throw new FileError('ENOTEMPTY', 'rename', at, { dest: target });
        }
      }
      await this.#makeRoom(lib, target, 'rename');
      await this.#renaming(lib);
      await lib.rename(at, target);
      if (there !== undefined) this.#forget(target);
      for (const handle of this.#handles) handle.moved(at, target);
    });
  }

  async link(existing: string, path: string): Promise<void> {
    const from = absolute(existing, 'link');
    await this.#change('link', path, async (lib, at) => {
      const source = await this.#rawStat(lib, from, O.NOFOLLOW);
      if (isDirectoryMode(source.mode)) throw new FileError('EPERM', 'link', from, { dest: at });
      await this.#mustNotExist(lib, at, 'link');
      await this.#makeRoom(lib, at, 'link');
      await this.#renaming(lib);
      await lib.link(from, at);
    });
  }

  symlink(target: string, path: string): Promise<void> {
    return this.#change('symlink', path, async (lib, at) => {
      await this.#mustNotExist(lib, at, 'symlink');
      await this.#makeRoom(lib, at, 'symlink');
      await this.#renaming(lib);
      await lib.symlink(target, at);
    });
  }

  chmod(path: string, mode: number): Promise<void> {
    return this.#change('chmod', path, async (lib, at) => {
      await this.#closeFiles(lib);
      await this.#opened(lib, at, O.RDONLY, (file) => lib.chmod(file, mode & 0o7777));
    });
  }

  /** Ids up to 65535. */
  chown(path: string, uid: number, gid: number): Promise<void> {
    return this.#change('chown', path, async (lib, at) => {
      if (uid > 0xffff || gid > 0xffff) {
        throw new FileError('EINVAL', 'chown', at, { detail: 'ids above 65535 are not supported' });
      }
      await this.#closeFiles(lib);
      await this.#opened(lib, at, O.RDONLY, (file) => lib.chown(file, uid, gid));
    });
  }

  // ── contents ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** `flags` as in Node: 'r', 'r+', 'w', 'wx', 'w+', 'wx+', 'a', 'ax', 'a+', 'ax+'. */
  async open(path: string, flags: string | number = 'r', mode = 0o666): Promise<FileHandle> {
    const access = parseFlags(flags);
    const body = async (lib: LibrarySession, at: string): Promise<FileHandle> => {
      const there = await this.#rawStat(lib, at).catch(absent);
      if (there === undefined) {
        if (!access.create) throw new FileError('ENOENT', 'open', at);
        await this.#create(lib, at, mode);
      } else {
        if (access.exclusive) throw new FileError('EEXIST', 'open', at);
        if (isDirectoryMode(there.mode) && access.write) throw new FileError('EISDIR', 'open', at);
        if (access.truncate && there.size > 0) await this.#empty(lib, at);
      }
      const handle = new FileHandle(this, at, access);
      this.#handles.add(handle);
      return handle;
    };
    return access.create || access.truncate
      ? this.#change('open', path, body)
      : this.#read('open', path, (lib, at) => {
          if (access.write && this.readOnly) throw new FileError('EROFS', 'open', at);
          return body(lib, at);
        });
  }

  readFile(path: string, options?: { encoding?: null; flag?: string } | null): Promise<Buffer>;
  readFile(
    path: string,
    options: BufferEncoding | { encoding: BufferEncoding; flag?: string },
  ): Promise<string>;
  async readFile(
    path: string,
    options: BufferEncoding | { encoding?: BufferEncoding | null; flag?: string } | null = {},
  ): Promise<Buffer | string> {
    const encoding = typeof options === 'string' ? options : options?.encoding;
    const bytes = await this.#read('open', path, async (lib, at) => {
      const { file } = await this.#file(lib, at, 'open');
      const { size } = await lib.extent(file);
      const target = Buffer.allocUnsafe(size);
      return target.subarray(0, await lib.read(file, target, 0));
    });
    return encoding ? bytes.toString(encoding) : bytes;
  }

  async writeFile(
    path: string,
    data: string | Uint8Array,
    options: BufferEncoding | { encoding?: BufferEncoding | null; mode?: number; flag?: string } = {},
  ): Promise<void> {
    const {
      encoding,
      mode = 0o666,
      flag = 'w',
    } = typeof options === 'string' ? { encoding: options } : options;
    const handle = await this.open(path, flag, mode);
    try {
      await handle.writeFile(data, encoding ?? 'utf8');
    } finally {
      await handle.close();
    }
  }

  appendFile(
    path: string,
    data: string | Uint8Array,
    options: BufferEncoding | { encoding?: BufferEncoding | null; mode?: number } = {},
  ): Promise<void> {
    const more = typeof options === 'string' ? { encoding: options } : options;
    return this.writeFile(path, data, { ...more, flag: 'a' });
  }

  async copyFile(from: string, to: string): Promise<void> {
    const source = await this.open(from, 'r');
    try {
      const { mode } = await source.stat();
      const target = await this.open(to, 'w', mode & 0o7777);
      try {
        const buffer = Buffer.allocUnsafe(256 * 1024);
        for (let position = 0; ; ) {
          const { bytesRead } = await source.read(buffer, 0, buffer.length, position);
          if (bytesRead === 0) break;
          await target.write(buffer, 0, bytesRead, position);
          position += bytesRead;
        }
      } finally {
        await target.close();
      }
    } finally {
      await source.close();
    }
  }

  async truncate(path: string, length = 0): Promise<void> {
    const handle = await this.open(path, 'r+');
    try {
      await handle.truncate(length);
    } finally {
      await handle.close();
    }
  }

  /** For FileHandle: reads into `target` from `position`; bytes read. */
  readAt(path: string, target: Uint8Array, position: number): Promise<number> {
    return this.#read('read', path, async (lib, at) => {
      const { file } = await this.#file(lib, at, 'read');
      return lib.read(file, target, position);
    });
  }

  /** For FileHandle: writes `source` at `position`; the position at which it was written. */
  writeAt(path: string, source: Uint8Array, position: WritePosition): Promise<number> {
    return this.#change('write', path, (lib, at) => this.#write(lib, at, source, position), false);
  }

  /** For FileHandle. */
  truncateAt(path: string, length: number): Promise<void> {
    return this.#change('ftruncate', path, async (lib, at) => {
      const { file } = await this.#file(lib, at, 'ftruncate');
      const { size } = await lib.extent(file);
      if (length === size) return;
      if (length > size) {
        await this.#write(lib, at, new Uint8Array(1), length - 1);
        return;
      }
      if (length > MAX_TRUNCATED_SIZE) {
        throw new FileError('EFBIG', 'ftruncate', at, {
          detail: `shortening to more than ${MAX_TRUNCATED_SIZE} bytes is not supported`,
        });
      }
      const kept = Buffer.allocUnsafe(length);
      await lib.read(file, kept, 0);
      await this.#empty(lib, at);
      if (length > 0) await this.#write(lib, at, kept, 0);
    });
  }

  /** For FileHandle. */
  released(handle: FileHandle): void {
    this.#handles.delete(handle);
  }

  async #write(
    lib: LibrarySession,
    path: string,
    source: Uint8Array,
    position: WritePosition,
  ): Promise<number> {
    const { file } = await this.#file(lib, path, 'write');
    const before = await lib.extent(file);
    const at = position === 'end' ? before.size : position;
    const end = at + source.length;
    if (end > MAX_FILE_SIZE) throw new FileError('EFBIG', 'write', path);
    if (source.length === 0) return at;
    try {
      await lib.write(file, source, at);
      const after = await lib.extent(file);
      if (after.blocks !== before.blocks) this.#tables = true;
    } catch (error) {
      this.#tables = true;
      throw error;
    }
    // A block that found no place is reported by close only.
    const allocatedEnd = Math.ceil(before.size / this.blockSize) * this.blockSize;
    if (end > allocatedEnd || before.blocks * 512 < before.size) {
      this.#tables = true;
      await this.#closeFile(lib, path, file, 'write');
    }
    return at;
  }

  async #create(lib: LibrarySession, path: string, mode: number): Promise<void> {
    await this.#parent(lib, path, 'open');
    await this.#renaming(lib);
    const file = await lib.open(path, O.RDWR | O.CREAT | O.EXCL, mode & 0o7777 & ~0o022);
    await lib.close(file, 'open', path);
  }

  async #empty(lib: LibrarySession, path: string): Promise<void> {
    await this.#renaming(lib);
    const file = await lib.open(path, O.RDWR | O.TRUNC, 0);
    await lib.close(file, 'open', path);
  }

  // ── libext2fs's open files ────────────────────────────────────────────────────────────────────────────────────────

  /** An open regular file, from the cache of open files or opened for reading and writing. */
  async #file(lib: LibrarySession, path: string, syscall: string): Promise<OpenFile> {
    const cached = this.#files.get(path);
    if (cached !== undefined) return cached;
    const file = await lib.open(path, this.readOnly ? O.RDONLY : O.RDWR, 0, syscall);
    const stat = await lib.stat(file);
    if (!isFileMode(stat.mode)) {
      await lib.close(file);
      throw new FileError(isDirectoryMode(stat.mode) ? 'EISDIR' : 'EINVAL', syscall, path);
    }
    for (const other of this.#files.values()) {
      // A second name of a file that is open: one open file, or their buffers would differ.
      if (other.ino !== stat.ino) continue;
      await lib.close(file);
      this.#files.set(path, other);
      return other;
    }
    if (this.#files.size >= MAX_OPEN_FILES) await this.#closeFiles(lib);
    const opened = { file, ino: stat.ino };
    this.#files.set(path, opened);
    return opened;
  }

  async #closeFiles(lib: LibrarySession): Promise<void> {
    const files = new Set([...this.#files.values()].map((open) => open.file));
    this.#files.clear();
    for (const file of files) await lib.close(file);
  }

  async #closeFile(lib: LibrarySession, path: string, file: LibraryFile, syscall: string): Promise<void> {
    for (const [name, open] of this.#files) if (open.file === file) this.#files.delete(name);
    await lib.close(file, syscall, path);
  }

  /** Before names or allocations change: no open file of the library may see it half. */
  async #renaming(lib: LibrarySession): Promise<void> {
    this.#tables = true;
    await this.#closeFiles(lib);
  }

  async #opened<T>(
    lib: LibrarySession,
    path: string,
    flags: number,
    body: (file: LibraryFile) => Promise<T>,
  ): Promise<T> {
    const file = await lib.open(path, flags, 0);
    try {
      return await body(file);
    } finally {
      await lib.close(file);
    }
  }

  async #rawStat(lib: LibrarySession, path: string, flags: number = O.RDONLY): Promise<RawStat> {
    const cached = flags === O.RDONLY ? this.#files.get(path) : undefined;
    if (cached !== undefined) return lib.stat(cached.file);
    return this.#opened(lib, path, flags, (file) => lib.stat(file));
  }

  async #entries(lib: LibrarySession, path: string): Promise<DirectoryEntry[]> {
    return parseDirectory(await this.#directoryBytes(lib, path, 'scandir'), this.blockSize);
  }

  #directoryBytes(lib: LibrarySession, path: string, syscall: string): Promise<Buffer> {
    return this.#opened(lib, path, O.RDONLY, async (file) => {
      const stat = await lib.stat(file);
      if (!isDirectoryMode(stat.mode)) throw new FileError('ENOTDIR', syscall, path);
      const bytes = Buffer.alloc(stat.size);
      await lib.read(file, bytes, 0);
      return bytes;
    });
  }

  /** The directory a name is to be put into; ENOENT, ENOTDIR or ENAMETOOLONG where it cannot be. */
  async #parent(lib: LibrarySession, path: string, syscall: string): Promise<string> {
    const parent = posix.dirname(path);
    if (Buffer.byteLength(posix.basename(path)) > NAME_MAX)
      throw new FileError('ENAMETOOLONG', syscall, path);
    const stat = await this.#rawStat(lib, parent).catch(absent);
    if (stat === undefined) throw new FileError('ENOENT', syscall, path);
    if (!isDirectoryMode(stat.mode)) throw new FileError('ENOTDIR', syscall, path);
    return parent;
  }

  /**
   * The library enlarges a full directory when it creates a file, but not for a directory or a link. So, where the name
   * does not fit, a file with the longest name is created there and removed again.
   */
  async #makeRoom(lib: LibrarySession, path: string, syscall: string): Promise<void> {
    const parent = await this.#parent(lib, path, syscall);
    const bytes = await this.#directoryBytes(lib, parent, syscall);
    if (hasRoom(bytes, this.blockSize, Buffer.byteLength(posix.basename(path)))) return;
    const filler = posix.join(parent, '.room-'.padEnd(NAME_MAX, 'x'));
    await this.#renaming(lib);
    await lib.close(await lib.open(filler, O.RDWR | O.CREAT | O.EXCL, 0o600, syscall));
    await lib.unlink(filler);
  }

  async #mustNotExist(lib: LibrarySession, path: string, syscall: string): Promise<void> {
    const there = await this.#rawStat(lib, path, O.NOFOLLOW).catch(absent);
    if (there !== undefined) throw new FileError('EEXIST', syscall, path);
  }

  #forget(path: string): void {
    for (const handle of this.#handles) if (handle.path === path) handle.invalidate();
  }

  // ── one operation ─────────────────────────────────────────────────────────────────────────────────────────────────

  #read<T>(
    syscall: string,
    path: string,
    body: (lib: LibrarySession, path: string) => Promise<T>,
  ): Promise<T> {
    return this.#run(syscall, path, body);
  }

  async #change<T>(
    syscall: string,
    path: string,
    body: (lib: LibrarySession, path: string) => Promise<T>,
    tables = true,
  ): Promise<T> {
    if (this.readOnly) throw new FileError('EROFS', syscall, path);
    while (this.#thawed !== undefined) await this.#thawed.promise;
    const result = await this.#run(syscall, path, (lib, at) => {
      if (this.#cache.failure !== undefined) throw this.#failed(syscall);
      this.#changed = true;
      if (tables) this.#tables = true;
      this.#armWriteback();
      return body(lib, at);
    });
    if (this.#cache.dirtyPages > MAX_DIRTY_PAGES && this.#thawed === undefined) await this.sync();
    return result;
  }

  #run<T>(
    syscall: string,
    path: string,
    body: (lib: LibrarySession, path: string) => Promise<T>,
  ): Promise<T> {
    const at = absolute(path, syscall);
    return this.#lock.run(async () => {
      if (this.#unmounted)
        throw new FileError('ENODEV', syscall, at, { detail: 'the file system was unmounted' });
      this.#session ??= await LibrarySession.mount(this.#cache);
      try {
        return await body(this.#session, at);
      } catch (error) {
        throw named(error, syscall, at);
      }
    });
  }

  #armWriteback(): void {
    if (this.#writebackMs === 0 || this.#writeback !== undefined) return;
    this.#writeback = setTimeout(() => {
      this.#writeback = undefined;
      // A failure stays in the cache and meets the next caller.
      this.sync().catch(() => {});
    }, this.#writebackMs);
    this.#writeback.unref();
  }

  #failed(syscall: string): FileError {
    return new FileError('EIO', syscall, undefined, {
      detail: 'an earlier commit failed; the file system takes no more changes',
      cause: this.#cache.failure,
    });
  }
}

/** How a file was opened. */
export interface Access {
  readonly read: boolean;
  readonly write: boolean;
  readonly append: boolean;
  readonly create: boolean;
  readonly exclusive: boolean;
  readonly truncate: boolean;
  /** O_SYNC, O_DSYNC: every write is durable when it returns. */
  readonly synchronous: boolean;
}

const O_SYNC_BITS = 0o4010000;

function parseFlags(flags: string | number): Access {
  if (typeof flags === 'number') {
    const mode = flags & 3;
    return {
      read: mode !== O.WRONLY,
      write: mode !== O.RDONLY,
      append: (flags & O.APPEND) !== 0,
      create: (flags & O.CREAT) !== 0,
      exclusive: (flags & O.EXCL) !== 0,
      truncate: (flags & O.TRUNC) !== 0,
      synchronous: (flags & O_SYNC_BITS) !== 0,
    };
  }
  const match = /^([rwa])(x?)(s?)(\+?)$/.exec(flags.replace(/^(s)([ra])/, '$2$1').replace('+x', 'x+'));
  if (match === null || (match[1] === 'r' && match[2] === 'x')) {
    throw new FileError('EINVAL', 'open', undefined, { detail: `unknown flags '${flags}'` });
  }
  const [, kind, exclusive, synchronous, plus] = match;
  return {
    read: kind === 'r' || plus === '+',
    write: kind !== 'r' || plus === '+',
    append: kind === 'a',
    create: kind !== 'r',
    exclusive: exclusive === 'x',
    truncate: kind === 'w',
    synchronous: synchronous === 's',
  };
}

function absolute(path: string, syscall: string): string {
  if (!path.startsWith('/')) {
    throw new FileError('EINVAL', syscall, path, { detail: 'paths of a guest are absolute' });
  }
  if (path.includes('\0')) throw new FileError('EINVAL', syscall, path.replaceAll('\0', '\\0'));
  const normal = posix.normalize(path);
  return normal.length > 1 && normal.endsWith('/') ? normal.slice(0, -1) : normal;
}

function absent(error: unknown): undefined {
  if (error instanceof FileError && error.code === 'ENOENT') return undefined;
  throw error;
}

/** Errors of inner calls carry the caller's syscall and path. */
function named(error: unknown, syscall: string, path: string): unknown {
  if (!(error instanceof FileError) || (error.path !== undefined && error.syscall === syscall)) return error;
  return new FileError(error.code, syscall, error.path ?? path, {
    cause: error.cause ?? error,
    ...(error.dest === undefined ? {} : { dest: error.dest }),
  });
}
