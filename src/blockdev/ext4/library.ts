/**
 * The typed edge to the npm package `ext2fs` (libext2fs as WebAssembly). We use its mount, and its functions on numbers
 * below its `fs` face: that face keeps views of the WebAssembly memory across calls that may move it, and does not keep two
 * calls apart. Rules that hold here:
 *  - one call at a time over all mounted file systems (the library's own queue sees to it);
 *  - memory views are taken after the last call that could have moved the memory;
 *  - a read gets O_NOATIME, else the library writes the inode at each read; a write gets O_CREAT, else it leaves the times;
 *  - a write reports success before the last block found its place: `close` says whether it did.
 */
import { createRequire } from 'node:module';
import { fromLibrary } from './errors.ts';

export interface LibraryDisk {
  read(target: Buffer, targetOffset: number, length: number, position: number): Promise<void>;
  write(source: Buffer, sourceOffset: number, length: number, position: number): Promise<void>;
  discard(offset: number, length: number): Promise<void>;
  flush(): Promise<void>;
}

/** Pointer to the library's open file. */
export type LibraryFile = number & { readonly libraryFile: unique symbol };

export interface RawStat {
  readonly ino: number;
  readonly mode: number;
  readonly links: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  /** 512-byte units. */
  readonly blocks: number;
  /** Seconds since 1970. */
  readonly atime: number;
  readonly mtime: number;
  readonly ctime: number;
}

/** Linux open flags as the library reads them. */
export const O = {
  RDONLY: 0,
  WRONLY: 0o1,
  RDWR: 0o2,
  CREAT: 0o100,
  EXCL: 0o200,
  TRUNC: 0o1000,
  APPEND: 0o2000,
  DIRECTORY: 0o200000,
  NOFOLLOW: 0o400000,
  NOATIME: 0o1000000,
} as const;

interface Wasm {
  readonly HEAPU8: Uint8Array;
  setObject(value: object): number;
  deleteObject(id: number): void;
}
type Call = (
  name: string,
  result: 'number',
  types: readonly 'number'[],
  args: readonly number[],
) => Promise<number>;
interface Mounted {
  readonly fsPointer: number;
}
interface Package {
  readonly wasm: Wasm;
  readonly call: Call;
  mount(disk: LibraryDisk): Promise<Mounted>;
  umount(mounted: Mounted): Promise<void>;
}

let loaded: Package | undefined;

/** Loads the package on first use (about 30 ms), without the process-wide error handlers that its runtime installs. */
export function loadLibrary(): void {
  library();
}

function library(): Package {
  if (loaded !== undefined) return loaded;
  const require = createRequire(import.meta.url);
  const events = ['uncaughtException', 'unhandledRejection'] as const;
  const before = events.map((event) => new Set(process.listeners(event as 'uncaughtException')));
  const { mount, umount } = require('ext2fs') as Pick<Package, 'mount' | 'umount'>;
  const wasm = require('ext2fs/lib/libext2fs.js') as Wasm;
  const { ccallThrowAsync } = require('ext2fs/lib/util.js') as { ccallThrowAsync: Call };
  events.forEach((event, i) => {
    for (const listener of process.listeners(event as 'uncaughtException')) {
      if (!before[i]!.has(listener)) process.off(event, listener);
    }
  });
  loaded = { wasm, call: ccallThrowAsync, mount, umount };
  return loaded;
}

const PATH_MAX = 4096;
const DATA_SIZE = 128 * 1024;

/** A mounted file system as the library sees it. Not safe for overlapping calls: its owner serialises them. */
export class LibrarySession {
  readonly #package: Package;
  readonly #mounted: Mounted;
  readonly #scratch: number;

  private constructor(pack: Package, mounted: Mounted, scratch: number) {
    this.#package = pack;
    this.#mounted = mounted;
    this.#scratch = scratch;
  }

  static async mount(disk: LibraryDisk): Promise<LibrarySession> {
    const pack = library();
    try {
      const mounted = await pack.mount(disk);
      const scratch = await pack.call('malloc_from_js', 'number', ['number'], [2 * PATH_MAX + DATA_SIZE]);
      return new LibrarySession(pack, mounted, scratch);
    } catch (error) {
      throw translated(error, 'mount');
    }
  }

  /** Writes superblock, group descriptors and bitmaps to the disk object. Open files must be closed before. */
  async unmount(): Promise<void> {
    await this.#call('free_from_js', 'umount', undefined, [this.#scratch]);
    try {
      // The package's umount closes the descriptors that its own face opened: there are none.
      await this.#package.umount(this.#mounted);
    } catch (error) {
      throw translated(error, 'umount');
    }
  }

  async open(path: string, flags: number, mode: number, syscall = 'open'): Promise<LibraryFile> {
    const file = await this.#call('node_ext2fs_open', syscall, path, [
      this.#fs,
      this.#path(path),
      flags,
      mode,
    ]);
    return file as LibraryFile;
  }

  /** Throws what the last write could not do, ENOSPC for instance. */
  async close(file: LibraryFile, syscall = 'close', path?: string): Promise<void> {
    await this.#call('node_ext2fs_close', syscall, path, [file]);
  }

  /** Bytes read, fewer than asked at the end of the file. */
  async read(file: LibraryFile, target: Uint8Array, position: number): Promise<number> {
    let done = 0;
    while (done < target.length) {
      const want = Math.min(DATA_SIZE, target.length - done);
      const args = [file, O.NOATIME, this.#data, want, position + done];
      const got = await this.#call('node_ext2fs_read', 'read', undefined, args);
      target.set(this.#package.wasm.HEAPU8.subarray(this.#data, this.#data + got), done);
      done += got;
      if (got < want) break;
    }
    return done;
  }

  async write(file: LibraryFile, source: Uint8Array, position: number): Promise<void> {
    for (let done = 0; done < source.length; ) {
      const part = source.subarray(done, done + DATA_SIZE);
      this.#package.wasm.HEAPU8.set(part, this.#data);
      const args = [file, O.RDWR | O.CREAT, this.#data, part.length, position + done];
      const written = await this.#call('node_ext2fs_write', 'write', undefined, args);
      if (written === 0) throw fromLibrary(0, 'EIO', 'write');
      done += written;
    }
  }

  async stat(file: LibraryFile): Promise<RawStat> {
    const ask = (field: string) => this.#call(`node_ext2fs_stat_${field}`, 'stat', undefined, [file]);
    const [ino, mode, links, uid, gid, size, blocks, atime, mtime, ctime] = await Promise.all([
      ask('ino'),
      ask('i_mode'),
      ask('i_links_count'),
      ask('i_uid'),
      ask('i_gid'),
      ask('i_size'),
      ask('i_blocks'),
      ask('i_atime'),
      ask('i_mtime'),
      ask('i_ctime'),
    ]);
    return { ino, mode, links, uid, gid, size, blocks, atime, mtime, ctime };
  }

  /** Size in bytes and allocation in 512-byte units. */
  async extent(file: LibraryFile): Promise<{ size: number; blocks: number }> {
    const [size, blocks] = await Promise.all([
      this.#call('node_ext2fs_stat_i_size', 'stat', undefined, [file]),
      this.#call('node_ext2fs_stat_i_blocks', 'stat', undefined, [file]),
    ]);
    return { size, blocks };
  }

  async mkdir(path: string, mode: number): Promise<void> {
    await this.#call('node_ext2fs_mkdir', 'mkdir', path, [this.#fs, this.#path(path), mode]);
  }

  async rmdir(path: string): Promise<void> {
    await this.#call('node_ext2fs_rmdir', 'rmdir', path, [this.#fs, this.#path(path)]);
  }

  async unlink(path: string): Promise<void> {
    await this.#call('node_ext2fs_unlink', 'unlink', path, [this.#fs, this.#path(path)]);
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#call('node_ext2fs_rename', 'rename', from, [this.#fs, this.#path(from), this.#path(to, 1)]);
  }

  async link(existing: string, path: string): Promise<void> {
    await this.#call('node_ext2fs_link', 'link', path, [this.#fs, this.#path(existing), this.#path(path, 1)]);
  }

  async symlink(target: string, path: string): Promise<void> {
    await this.#call('node_ext2fs_symlink', 'symlink', path, [
      this.#fs,
      this.#path(target),
      this.#path(path, 1),
    ]);
  }

  async readlink(path: string): Promise<string> {
    const parts: Buffer[] = [];
    const id = this.#package.wasm.setObject(parts);
    try {
      await this.#call('node_ext2fs_readlink', 'readlink', path, [this.#fs, this.#path(path), id]);
    } finally {
      this.#package.wasm.deleteObject(id);
    }
    return Buffer.concat(parts).toString('utf8');
  }

  async chmod(file: LibraryFile, mode: number): Promise<void> {
    await this.#call('node_ext2fs_chmod', 'chmod', undefined, [file, mode]);
  }

  /** The library keeps the lower 16 bits. */
  async chown(file: LibraryFile, uid: number, gid: number): Promise<void> {
    await this.#call('node_ext2fs_chown', 'chown', undefined, [file, uid, gid]);
  }

  get #fs(): number {
    return this.#mounted.fsPointer;
  }

  get #data(): number {
    return this.#scratch + 2 * PATH_MAX;
  }

  #path(path: string, slot: 0 | 1 = 0): number {
    const bytes = Buffer.from(path, 'utf8');
    if (bytes.length >= PATH_MAX) throw fromLibrary(0, 'ENAMETOOLONG', 'open', path);
    const at = this.#scratch + slot * PATH_MAX;
    const heap = this.#package.wasm.HEAPU8;
    heap.set(bytes, at);
    heap[at + bytes.length] = 0;
    return at;
  }

  async #call(
    name: string,
    syscall: string,
    path: string | undefined,
    args: readonly number[],
  ): Promise<number> {
    try {
      return await this.#package.call(
        name,
        'number',
        args.map(() => 'number' as const),
        args,
      );
    } catch (error) {
      throw translated(error, syscall, path);
    }
  }
}

function translated(error: unknown, syscall: string, path?: string): unknown {
  const { errno, code } = error as { errno?: unknown; code?: string };
  return typeof errno === 'number' ? fromLibrary(errno, code, syscall, path) : error;
}
