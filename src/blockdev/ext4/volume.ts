/**
 * One mounted ext4 file system below its face: the lock, libext2fs's session and open files, commits.
 *
 * Commits. Operations change the page cache only. `sync` makes one commit: what libext2fs still holds in its own memory
 * (superblock, group descriptors, bitmaps) is put into the cache by unmounting it there, then the changed blocks go through
 * the journal to their places (Committer); libext2fs is mounted again from the cache when next needed (half a millisecond).
 * A write that allocated nothing leaves those tables alone, so its commit skips both: two sectors and a flush.
 * Overlapping calls of `sync` share commits. Killed at any point, the device holds one commit or the next: the journal is
 * put back by the next mount, or by e2fsck. What waits for a commit is kept small enough for the journal: a quarter of it
 * before an operation begins, and no operation adds more than another quarter.
 *
 * Open files of libext2fs are cached by path and inode; they do not outlive its unmounting or a change of names.
 * Methods that take a `LibrarySession` are to be called from a body given to `read` or `change`, which hold the lock.
 */
import { posix } from 'node:path';
import type { Commit, Committer } from './committer.ts';
import { FileError } from './errors.ts';
import type { LibraryFile, RawStat } from './library.ts';
import { LibrarySession, O } from './library.ts';
import { Lock } from './lock.ts';
import type { CacheCounters, PageCache } from './page-cache.ts';
import { absent, absolute, NAME_MAX, named } from './paths.ts';
import type { DirectoryEntry } from './stats.ts';
import { hasRoom, isDirectoryMode, isFileMode, parseDirectory } from './stats.ts';
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
const MAX_DIRTY_BYTES = 16 * 1024 * 1024;
/** Part of a write after which a commit may be made. */
const PIECE = 256 * 1024;
const MAX_OPEN_FILES = 64;

export type WritePosition = number | 'end';

interface OpenFile {
  readonly file: LibraryFile;
  readonly ino: number;
}

type Body<T> = (lib: LibrarySession, path: string) => Promise<T>;

export class Volume {
  readonly readOnly: boolean;
  readonly superblock: Superblock;
  /** None: read-only. */
  readonly #committer: Committer | undefined;
  /** Most that may wait for a commit when an operation begins. */
  readonly #maxDirtyBytes: number;
  readonly #cache: PageCache;
  readonly #lock = new Lock();
  readonly #writebackMs: number;
  readonly #files = new Map<string, OpenFile>();
  #session: LibrarySession | undefined;
  /** Something changed since the last commit was taken. */
  #changed = false;
  /** … and libext2fs holds tables that are not in the cache. */
  #tables = false;
  #running: Commit | undefined;
  #waiting: Commit | undefined;
  #thawed: { promise: Promise<void>; resolve: () => void } | undefined;
  #writeback: NodeJS.Timeout | undefined;
  #unmounted = false;

  /** Without a committer nothing can be changed. Use `mountExt4`. */
  constructor(
    cache: PageCache,
    superblock: Superblock,
    committer: Committer | undefined,
    options: MountOptions,
  ) {
    this.superblock = superblock;
    this.readOnly = committer === undefined;
    this.#writebackMs = options.writebackMs ?? 0;
    this.#cache = cache;
    this.#committer = committer;
    const quarter = ((committer?.capacity ?? 0) * superblock.blockSize) / 4;
    this.#maxDirtyBytes = Math.min(MAX_DIRTY_BYTES, quarter);
  }

  get blockSize(): number {
    return this.superblock.blockSize;
  }

  counters(): CacheCounters {
    return this.#cache.counters();
  }

  /** The superblock as of a commit made for the purpose. */
  async currentSuperblock(): Promise<Superblock> {
    await this.sync();
    const bytes = Buffer.alloc(SUPERBLOCK_SIZE);
    await this.#lock.run(() => this.#cache.read(bytes, 0, SUPERBLOCK_SIZE, SUPERBLOCK_OFFSET));
    return parseSuperblock(bytes, this.#cache.size);
  }

  /**
   * Returns when everything that was done before the call is durable. Throws what the device failed with; from then on
   * the file system refuses every change.
   */
  async sync(): Promise<void> {
    await this.#commit().durable;
  }

  /** As `sync`, and every block stands in its place: the device is consistent without its journal, too. */
  async settle(): Promise<void> {
    await this.#commit().settled;
  }

  #commit(): Commit {
    if (this.#waiting !== undefined) return this.#waiting;
    const before = this.#running;
    const taken = (async () => {
      await before?.settled.catch(() => {});
      return this.#lock.run(() => {
        this.#waiting = undefined;
        return this.#collect();
      });
    })();
    const commit: Commit = {
      durable: taken.then((made) => made?.durable),
      settled: taken.then((made) => made?.settled),
    };
    commit.durable.catch(() => {});
    commit.settled.catch(() => {});
    this.#waiting = commit;
    this.#running = commit;
    return commit;
  }

  /** Commits, and keeps every further change waiting until `thaw`. The device is as after `unmount`. */
  async freeze(): Promise<void> {
    if (this.#thawed === undefined) {
      let resolve = () => {};
      const promise = new Promise<void>((r) => {
        resolve = r;
      });
      this.#thawed = { promise, resolve };
    }
    await this.#settleAll();
    await this.#lock.run(() => this.#close());
  }

  async #settleAll(): Promise<void> {
    // Changes that passed the gate before it closed are in the lock's queue.
    await this.#lock.run(() => {});
    await this.settle();
    if (this.#changed) await this.settle();
  }

  /** Under the lock, everything settled: takes away the mark that says that the journal is to be looked at. */
  async #close(): Promise<void> {
    if (this.#committer?.isOpen !== true || this.#changed || this.#cache.failure !== undefined) return;
    await this.#endSession();
    await this.#committer.close();
  }

  thaw(): void {
    this.#thawed?.resolve();
    this.#thawed = undefined;
  }

  get frozen(): boolean {
    return this.#thawed !== undefined;
  }

  /**
   * Commits and gives the disk up; the device stays open. A device that refuses writes by now (a fence) keeps the mark
   * `needs_recovery`: what was committed is on it. Idempotent.
   */
  async unmount(): Promise<void> {
    if (this.#unmounted) return;
    this.thaw();
    try {
      await this.#settleAll();
      await this.#lock.run(() => this.#close()).catch(() => {});
    } finally {
      this.abandon();
      await this.#lock.run(() => {});
    }
  }

  /** Gives the disk up without committing: it stays as the last commit left it. */
  abandon(): void {
    this.#unmounted = true;
    clearTimeout(this.#writeback);
    this.thaw();
    this.#lock.run(() => this.#endSession()).catch(() => {});
  }

  /** Under the lock: everything that differs from the device, at one instant, on its way there. */
  async #collect(): Promise<Commit | undefined> {
    clearTimeout(this.#writeback);
    this.#writeback = undefined;
    if (this.#cache.failure !== undefined) throw this.#failed('fsync');
    if (!this.#changed) return undefined;
    const inPlace = !this.#tables;
    if (!inPlace) await this.#endSession();
    this.#changed = false;
    this.#tables = false;
    return this.#committer?.commit(this.#cache.takeDirty(), inPlace);
  }

  /** Under the lock: a commit when too much waits for one. It ends the library's session. */
  async #relieve(): Promise<void> {
    if (this.#cache.dirtyPages * this.#cache.pageSize <= this.#maxDirtyBytes) return;
    await (await this.#collect())?.settled;
  }

  async #endSession(): Promise<void> {
    const session = this.#session;
    if (session === undefined) return;
    await this.closeFiles(session);
    this.#session = undefined;
    await session.unmount();
  }

  read<T>(syscall: string, path: string, body: Body<T>): Promise<T> {
    return this.#run(syscall, path, body);
  }

  async change<T>(syscall: string, path: string, body: Body<T>, tables = true): Promise<T> {
    const committer = this.#committer;
    if (committer === undefined) throw new FileError('EROFS', syscall, path);
    while (this.#thawed !== undefined) await this.#thawed.promise;
    const prepare = async () => {
      if (this.#cache.failure !== undefined) throw this.#failed(syscall);
      await this.#relieve();
      if (committer.isOpen) return;
      await this.#endSession();
      await committer.open();
    };
    return this.#run(
      syscall,
      path,
      (lib, at) => {
        this.#changed = true;
        if (tables) this.#tables = true;
        this.#armWriteback();
        return body(lib, at);
      },
      prepare,
    );
  }

  #run<T>(syscall: string, path: string, body: Body<T>, prepare?: () => Promise<void>): Promise<T> {
    const at = absolute(path, syscall);
    return this.#lock.run(async () => {
      if (this.#unmounted)
        throw new FileError('ENODEV', syscall, at, { detail: 'the file system was unmounted' });
      try {
        await prepare?.();
        return await body(await this.#mounted(), at);
      } catch (error) {
        throw named(error, syscall, at);
      }
    });
  }

  async #mounted(): Promise<LibrarySession> {
    this.#session ??= await LibrarySession.mount(this.#cache);
    return this.#session;
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

  /** In pieces, between which a commit may be made: of a long write that is cut off by a crash a part may be there. */
  async write(
    lib: LibrarySession,
    path: string,
    source: Uint8Array,
    position: WritePosition,
  ): Promise<number> {
    const at = await this.#writePiece(lib, path, source.subarray(0, PIECE), position, source.length);
    for (let done = PIECE; done < source.length; done += PIECE) {
      await this.#relieve();
      // A commit inside of the operation: what follows is a change again.
      this.#changed = true;
      await this.#writePiece(await this.#mounted(), path, source.subarray(done, done + PIECE), at + done);
    }
    return at;
  }

  async #writePiece(
    lib: LibrarySession,
    path: string,
    source: Uint8Array,
    position: WritePosition,
    total = source.length,
  ): Promise<number> {
    const { file } = await this.file(lib, path, 'write');
    const before = await lib.extent(file);
    const at = position === 'end' ? before.size : position;
    const end = at + source.length;
    if (at + total > MAX_FILE_SIZE) throw new FileError('EFBIG', 'write', path);
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

  /**
   * Shortens a file to `length` bytes, more than 0. The library can only empty one: what stays is written again, in the
   * same commit; where that would be too much for the journal, into a new file that takes the place of the old one.
   */
  async shorten(lib: LibrarySession, path: string, length: number): Promise<void> {
    const { file } = await this.file(lib, path, 'ftruncate');
    if (length <= Math.min(this.#maxDirtyBytes / 2, PIECE)) {
      const kept = Buffer.allocUnsafe(length);
      await lib.read(file, kept, 0);
      await this.empty(lib, path);
      await this.#writePiece(lib, path, kept, 0);
      return;
    }
    const old = await lib.stat(file);
    if (old.links > 1) {
      throw new FileError('EFBIG', 'ftruncate', path, {
        detail: `shortening a file with ${old.links} names to more than ${PIECE} bytes is not supported`,
      });
    }
    const other = posix.join(posix.dirname(path), `.shortened-${old.ino}`);
    let session = lib;
    if ((await this.rawStat(session, other, O.NOFOLLOW).catch(absent)) !== undefined) {
      await this.renaming(session);
      await session.unlink(other);
    }
    await this.create(session, other, old.mode);
    const buffer = Buffer.allocUnsafe(PIECE);
    for (let at = 0; at < length; at += PIECE) {
      await this.#relieve();
      this.#changed = true;
      session = await this.#mounted();
      const source = await this.file(session, path, 'ftruncate');
      const part = buffer.subarray(0, Math.min(PIECE, length - at));
      await session.read(source.file, part, at);
      await this.#writePiece(session, other, part, at);
    }
    await this.renaming(session);
    await this.opened(session, other, O.RDONLY, (handle) => session.chmod(handle, old.mode & 0o7777));
    await this.opened(session, other, O.RDONLY, (handle) => session.chown(handle, old.uid, old.gid));
    await session.rename(other, path);
  }

  async create(lib: LibrarySession, path: string, mode: number): Promise<void> {
    await this.parent(lib, path, 'open');
    await this.renaming(lib);
    const file = await lib.open(path, O.RDWR | O.CREAT | O.EXCL, mode & 0o7777 & ~0o022);
    await lib.close(file, 'open', path);
  }

  async empty(lib: LibrarySession, path: string): Promise<void> {
    await this.renaming(lib);
    const file = await lib.open(path, O.RDWR | O.TRUNC, 0);
    await lib.close(file, 'open', path);
  }

  /** An open regular file, from the cache of open files or opened for reading and writing. */
  async file(lib: LibrarySession, path: string, syscall: string): Promise<OpenFile> {
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
    if (this.#files.size >= MAX_OPEN_FILES) await this.closeFiles(lib);
    const opened = { file, ino: stat.ino };
    this.#files.set(path, opened);
    return opened;
  }

  async closeFiles(lib: LibrarySession): Promise<void> {
    const files = new Set([...this.#files.values()].map((open) => open.file));
    this.#files.clear();
    for (const file of files) await lib.close(file);
  }

  async #closeFile(lib: LibrarySession, path: string, file: LibraryFile, syscall: string): Promise<void> {
    for (const [name, open] of this.#files) if (open.file === file) this.#files.delete(name);
    await lib.close(file, syscall, path);
  }

  /** Before names or allocations change: no open file of the library may see it half. */
  async renaming(lib: LibrarySession): Promise<void> {
    this.#tables = true;
    await this.closeFiles(lib);
  }

  async opened<T>(
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

  async rawStat(lib: LibrarySession, path: string, flags: number = O.RDONLY): Promise<RawStat> {
    const cached = flags === O.RDONLY ? this.#files.get(path) : undefined;
    if (cached !== undefined) return lib.stat(cached.file);
    return this.opened(lib, path, flags, (file) => lib.stat(file));
  }

  async entries(lib: LibrarySession, path: string): Promise<DirectoryEntry[]> {
    return parseDirectory(await this.#directoryBytes(lib, path, 'scandir'), this.blockSize);
  }

  #directoryBytes(lib: LibrarySession, path: string, syscall: string): Promise<Buffer> {
    return this.opened(lib, path, O.RDONLY, async (file) => {
      const stat = await lib.stat(file);
      if (!isDirectoryMode(stat.mode)) throw new FileError('ENOTDIR', syscall, path);
      const bytes = Buffer.alloc(stat.size);
      await lib.read(file, bytes, 0);
      return bytes;
    });
  }

  /** The directory a name is to be put into; ENOENT, ENOTDIR or ENAMETOOLONG where it cannot be. */
  async parent(lib: LibrarySession, path: string, syscall: string): Promise<string> {
    const parent = posix.dirname(path);
    if (Buffer.byteLength(posix.basename(path)) > NAME_MAX)
      throw new FileError('ENAMETOOLONG', syscall, path);
    const stat = await this.rawStat(lib, parent).catch(absent);
    if (stat === undefined) throw new FileError('ENOENT', syscall, path);
    if (!isDirectoryMode(stat.mode)) throw new FileError('ENOTDIR', syscall, path);
    return parent;
  }

  /**
   * The library enlarges a full directory when it creates a file, but not for a directory or a link. So, where the name
   * does not fit, a file with the longest name is created there and removed again.
   */
  async makeRoom(lib: LibrarySession, path: string, syscall: string): Promise<void> {
    const parent = await this.parent(lib, path, syscall);
    const bytes = await this.#directoryBytes(lib, parent, syscall);
    if (hasRoom(bytes, this.blockSize, Buffer.byteLength(posix.basename(path)))) return;
    const filler = posix.join(parent, '.room-'.padEnd(NAME_MAX, 'x'));
    await this.renaming(lib);
    await lib.close(await lib.open(filler, O.RDWR | O.CREAT | O.EXCL, 0o600, syscall));
    await lib.unlink(filler);
  }

  async mustNotExist(lib: LibrarySession, path: string, syscall: string): Promise<void> {
    const there = await this.rawStat(lib, path, O.NOFOLLOW).catch(absent);
    if (there !== undefined) throw new FileError('EEXIST', syscall, path);
  }
}
