/**
 * An ext4 file system in user space, over any Device. The face is that of `node:fs/promises`.
 *
 * Layers: FileSystem (names, handles) → Volume (lock, commits) → LibrarySession (libext2fs) → PageCache → Device.
 */
import { posix } from 'node:path';
import type { Device } from '../device.ts';
import { Committer } from './committer.ts';
import { FileError } from './errors.ts';
import { FileHandle } from './file-handle.ts';
import { parseFlags } from './flags.ts';
import type { LibrarySession } from './library.ts';
import { O } from './library.ts';
import { recover } from './mount.ts';
import type { CacheCounters } from './page-cache.ts';
import { absent, absolute } from './paths.ts';
import { Dirent, isDirectoryMode, Stats } from './stats.ts';
import type { MountOptions, WritePosition } from './volume.ts';
import { Volume } from './volume.ts';

const DEFAULT_CACHE_BYTES = 64 * 1024 * 1024;

/** Throws Ext4MountError when the disk does not hold an ext4 file system that can be mounted. */
export async function mountExt4(device: Device, options: MountOptions = {}): Promise<FileSystem> {
  const readOnly = options.readOnly === true || device.capabilities.readOnly;
  const cacheBytes = options.cacheBytes ?? DEFAULT_CACHE_BYTES;
  const { cache, superblock, journal } = await recover(device, readOnly, cacheBytes);
  let committer: Committer | undefined;
  if (!readOnly && journal !== undefined) {
    committer = new Committer(device, cache, journal, superblock);
    // The mark of a mount that was cut off: this one's unmount takes it away.
    if (superblock.needsRecovery) await committer.open();
  }
  const fileSystem = new FileSystem(new Volume(cache, superblock, committer, options));
  await fileSystem.stat('/');
  return fileSystem;
}

export class FileSystem {
  readonly #volume: Volume;
  readonly #handles = new Set<FileHandle>();

  /** Use `mountExt4`. */
  constructor(volume: Volume) {
    this.#volume = volume;
  }

  get readOnly(): boolean {
    return this.#volume.readOnly;
  }

  get blockSize(): number {
    return this.#volume.blockSize;
  }

  get label(): string {
    return this.#volume.superblock.label;
  }

  get uuid(): string {
    return this.#volume.superblock.uuid;
  }

  counters(): CacheCounters {
    return this.#volume.counters();
  }

  /** As `node:fs`'s statfs; commits first. */
  async statfs(): Promise<{
    bsize: number;
    blocks: number;
    bfree: number;
    bavail: number;
    files: number;
    ffree: number;
  }> {
    const { blockSize, blocks, freeBlocks, inodes, freeInodes } = await this.#volume.currentSuperblock();
    return {
      bsize: blockSize,
      blocks,
      bfree: freeBlocks,
      bavail: freeBlocks,
      files: inodes,
      ffree: freeInodes,
    };
  }

  /**
   * Returns when everything that was done before the call is durable and stands in its place. Throws what the device
   * failed with; from then on the file system refuses every change.
   */
  sync(): Promise<void> {
    return this.#volume.settle();
  }

  /** For FileHandle: durable, if need be by the journal alone. */
  syncData(): Promise<void> {
    return this.#volume.sync();
  }

  /** Commits, and keeps every further change waiting until `thaw`. */
  freeze(): Promise<void> {
    return this.#volume.freeze();
  }

  thaw(): void {
    this.#volume.thaw();
  }

  get frozen(): boolean {
    return this.#volume.frozen;
  }

  /** Commits and gives the disk up; the device stays open. Handles are stale afterwards. Idempotent. */
  async unmount(): Promise<void> {
    try {
      await this.#volume.unmount();
    } finally {
      this.#invalidateAll();
    }
  }

  /** Gives the disk up without committing: it stays as the last commit left it. */
  abandon(): void {
    this.#volume.abandon();
    this.#invalidateAll();
  }

  // ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  stat(path: string): Promise<Stats> {
    return this.#volume.read(
      'stat',
      path,
      async (lib, at) => new Stats(await this.#volume.rawStat(lib, at), this.blockSize),
    );
  }

  lstat(path: string): Promise<Stats> {
    return this.#volume.read('lstat', path, async (lib, at) => {
      return new Stats(await this.#volume.rawStat(lib, at, O.NOFOLLOW), this.blockSize);
    });
  }

  async access(path: string, _mode = 0): Promise<void> {
    await this.#volume.read('access', path, (lib, at) => this.#volume.rawStat(lib, at));
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
      const entries = await this.#volume.read('scandir', directory, (lib, at) =>
        this.#volume.entries(lib, at),
      );
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
    return this.#volume.read('readlink', path, async (lib, at) => {
      await this.#volume.rawStat(lib, at, O.NOFOLLOW);
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
    return this.#volume.change('mkdir', path, async (lib, at) => {
      await this.#volume.mustNotExist(lib, at, 'mkdir');
      await this.#volume.makeRoom(lib, at, 'mkdir');
      await this.#volume.renaming(lib);
      await lib.mkdir(at, mode & 0o7777 & ~0o022);
    });
  }

  rmdir(path: string): Promise<void> {
    return this.#volume.change('rmdir', path, async (lib, at) => {
      const stat = await this.#volume.rawStat(lib, at, O.NOFOLLOW);
      if (!isDirectoryMode(stat.mode)) throw new FileError('ENOTDIR', 'rmdir', at);
      if (at === '/') throw new FileError('EBUSY', 'rmdir', at);
      if ((await this.#volume.entries(lib, at)).length > 0) throw new FileError('ENOTEMPTY', 'rmdir', at);
      await this.#volume.renaming(lib);
      await lib.rmdir(at);
    });
  }

  unlink(path: string): Promise<void> {
    return this.#volume.change('unlink', path, async (lib, at) => {
      const stat = await this.#volume.rawStat(lib, at, O.NOFOLLOW);
      if (isDirectoryMode(stat.mode)) throw new FileError('EISDIR', 'unlink', at);
      await this.#volume.renaming(lib);
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
    await this.#volume.change('rename', from, async (lib, at) => {
      if (at === '/' || target.startsWith(`${at}/`)) {
        throw new FileError('EINVAL', 'rename', at, { dest: target });
      }
      const source = await this.#volume.rawStat(lib, at, O.NOFOLLOW);
      const there = await this.#volume.rawStat(lib, target, O.NOFOLLOW).catch(absent);
      if (there?.ino === source.ino) return;
      if (there !== undefined) {
        if (isDirectoryMode(there.mode) && !isDirectoryMode(source.mode)) {
          throw new FileError('EISDIR', 'rename', at, { dest: target });
        }
        if (!isDirectoryMode(there.mode) && isDirectoryMode(source.mode)) {
          throw new FileError('ENOTDIR', 'rename', at, { dest: target });
        }
        if (isDirectoryMode(there.mode) && (await this.#volume.entries(lib, target)).length > 0) {
          throw new FileError('ENOTEMPTY', 'rename', at, { dest: target });
        }
      }
      await this.#volume.makeRoom(lib, target, 'rename');
      await this.#volume.renaming(lib);
      await lib.rename(at, target);
      if (there !== undefined) this.#forget(target);
      for (const handle of this.#handles) handle.moved(at, target);
    });
  }

  async link(existing: string, path: string): Promise<void> {
    const from = absolute(existing, 'link');
    await this.#volume.change('link', path, async (lib, at) => {
      const source = await this.#volume.rawStat(lib, from, O.NOFOLLOW);
      if (isDirectoryMode(source.mode)) throw new FileError('EPERM', 'link', from, { dest: at });
      await this.#volume.mustNotExist(lib, at, 'link');
      await this.#volume.makeRoom(lib, at, 'link');
      await this.#volume.renaming(lib);
      await lib.link(from, at);
    });
  }

  symlink(target: string, path: string): Promise<void> {
    return this.#volume.change('symlink', path, async (lib, at) => {
      await this.#volume.mustNotExist(lib, at, 'symlink');
      await this.#volume.makeRoom(lib, at, 'symlink');
      await this.#volume.renaming(lib);
      await lib.symlink(target, at);
    });
  }

  chmod(path: string, mode: number): Promise<void> {
    return this.#volume.change('chmod', path, async (lib, at) => {
      await this.#volume.closeFiles(lib);
      await this.#volume.opened(lib, at, O.RDONLY, (file) => lib.chmod(file, mode & 0o7777));
    });
  }

  /** Ids up to 65535. */
  chown(path: string, uid: number, gid: number): Promise<void> {
    return this.#volume.change('chown', path, async (lib, at) => {
      if (uid > 0xffff || gid > 0xffff) {
        throw new FileError('EINVAL', 'chown', at, { detail: 'ids above 65535 are not supported' });
      }
      await this.#volume.closeFiles(lib);
      await this.#volume.opened(lib, at, O.RDONLY, (file) => lib.chown(file, uid, gid));
    });
  }

  // ── contents ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** `flags` as in Node: 'r', 'r+', 'w', 'wx', 'w+', 'wx+', 'a', 'ax', 'a+', 'ax+'. */
  async open(path: string, flags: string | number = 'r', mode = 0o666): Promise<FileHandle> {
    const access = parseFlags(flags);
    const body = async (lib: LibrarySession, at: string): Promise<FileHandle> => {
      const there = await this.#volume.rawStat(lib, at).catch(absent);
      if (there === undefined) {
        if (!access.create) throw new FileError('ENOENT', 'open', at);
        await this.#volume.create(lib, at, mode);
      } else {
        if (access.exclusive) throw new FileError('EEXIST', 'open', at);
        if (isDirectoryMode(there.mode) && access.write) throw new FileError('EISDIR', 'open', at);
        if (access.truncate && there.size > 0) await this.#volume.empty(lib, at);
      }
      const handle = new FileHandle(this, at, access);
      this.#handles.add(handle);
      return handle;
    };
    return access.create || access.truncate
      ? this.#volume.change('open', path, body)
      : this.#volume.read('open', path, (lib, at) => {
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
    const bytes = await this.#volume.read('open', path, async (lib, at) => {
      const { file } = await this.#volume.file(lib, at, 'open');
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
    return this.#volume.read('read', path, async (lib, at) => {
      const { file } = await this.#volume.file(lib, at, 'read');
      return lib.read(file, target, position);
    });
  }

  /** For FileHandle: writes `source` at `position`; the position at which it was written. */
  writeAt(path: string, source: Uint8Array, position: WritePosition): Promise<number> {
    return this.#volume.change(
      'write',
      path,
      (lib, at) => this.#volume.write(lib, at, source, position),
      false,
    );
  }

  /** For FileHandle. */
  truncateAt(path: string, length: number): Promise<void> {
    return this.#volume.change('ftruncate', path, async (lib, at) => {
      const { file } = await this.#volume.file(lib, at, 'ftruncate');
      const { size } = await lib.extent(file);
      if (length === size) return;
      if (length > size) {
        await this.#volume.write(lib, at, new Uint8Array(1), length - 1);
        return;
      }
      if (length === 0) await this.#volume.empty(lib, at);
      else await this.#volume.shorten(lib, at, length);
    });
  }

  /** For FileHandle. */
  released(handle: FileHandle): void {
    this.#handles.delete(handle);
  }

  #forget(path: string): void {
    for (const handle of this.#handles) if (handle.path === path) handle.invalidate();
  }

  #invalidateAll(): void {
    for (const handle of this.#handles) handle.invalidate();
    this.#handles.clear();
  }
}
