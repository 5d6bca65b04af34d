/**
 * A raw image file as device. Sparse: what was never written reads as zero and takes no space.
 *
 * Durability: `flush` and `fua` end after fdatasync. The kernel reports a failed write-back once and then forgets the pages,
 * so a failed fdatasync is remembered for ever: the store turns read-only and says why; asking again would lie.
 *
 * Speed: cached reads (RWF_NOWAIT) and small writes run on the event loop, see InlineBudget; everything that may wait
 * (uncached reads, large writes, fdatasync, fallocate) runs on the thread pool.
 */
import {
  closeSync,
  fdatasync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  read,
  write,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import {
  AllocateMode,
  allocate,
  cloneFile,
  copyRange,
  errnoName,
  isPastData,
  isUnsupported,
  readNow,
  seekData,
  seekHole,
  wouldWait,
  writeBack,
} from 'block-io';
import { codeOf, messageOf } from '../../common/index.ts';
import type { Device, DeviceCapabilities, Extent, WriteOptions, WriteZeroesOptions } from '../device.ts';
import { DeviceError } from '../device.ts';
import { checkRange, deviceError, ZERO_BLOCK } from '../range.ts';
import { Coalesced } from './coalesced.ts';
import { lockFile, StoreError } from './file-lock.ts';
import { InlineBudget } from './inline-budget.ts';

export interface FileStoreOptions {
  readonly readOnly?: boolean;
  /** Create the file with this size; an existing file must have exactly it. Without, the file must exist. */
  readonly create?: bigint;
  /** Default true: the file can be open once. Readers that only look (hash, scan) may give false with `readOnly`. */
  readonly exclusive?: boolean;
  /** Called once, when a flush failed and the store turned read-only. */
  readonly onFailed?: (reason: string) => void;
}

/** Writes up to this size run on the event loop. */
const INLINE_BYTES = 64 * 1024;
/** Extents told at most in one answer. */
const MAX_EXTENTS = 4096;

export class FileStore implements Device {
  readonly path: string;
  readonly size: bigint;
  readonly capabilities: DeviceCapabilities;
  readonly #fd: number;
  readonly #release: () => void;
  readonly #onFailed: ((reason: string) => void) | undefined;
  readonly #budget = new InlineBudget();
  #failed: string | undefined;
  #closed = false;
  #inFlight = 0;
  #idle: (() => void) | undefined;
  #readNow = true;
  #punch = true;
  #zeroRange = true;
  readonly #syncs = new Coalesced(() => this.#syncNow());

  private constructor(
    path: string,
    fd: number,
    size: bigint,
    release: () => void,
    options: FileStoreOptions,
  ) {
    this.path = path;
    this.#fd = fd;
    this.size = size;
    this.#release = release;
    this.#onFailed = options.onFailed;
    const readOnly = options.readOnly === true;
    this.capabilities = {
      readOnly,
      trim: !readOnly,
      writeZeroes: !readOnly,
      fastZero: !readOnly,
      multiConn: true,
      preferredBlock: 4096,
      maxTransfer: 32 * 1024 * 1024,
    };
  }

  /** Throws StoreError: `ENOENT`, `EACCES`, `in-use`, `size-mismatch`, `not-a-file`, `too-large`, or an errno. */
  static open(path: string, options: FileStoreOptions = {}): FileStore {
    const { create, readOnly = false, exclusive = true } = options;
    const limit = BigInt(Number.MAX_SAFE_INTEGER);
    if (create !== undefined && (create <= 0n || create > limit))
      throw new StoreError('too-large', `${create} bytes is no size for a disk: 1 to 2^53 - 1`);
    const fd = openFile(path, readOnly, create);
    let release = () => {};
    try {
      const stat = fstatSync(fd, { bigint: true });
      if (!stat.isFile())
        throw new StoreError('not-a-file', `${path} is no regular file`, {
          remedy: 'give the path of an image file',
        });
      if (exclusive) release = lockFile(path);
      let size = stat.size;
      if (create !== undefined && size === 0n) {
        ftruncateSync(fd, Number(create));
        fsyncSync(fd);
        syncDirectory(dirname(path));
        size = create;
      }
      if (create !== undefined && size !== create)
        throw new StoreError('size-mismatch', `${path} has ${size} bytes, not ${create}`, {
          remedy: 'leave the size out to open it as it is',
          values: { path, size, wanted: create },
        });
      return new FileStore(path, fd, size, release, options);
    } catch (error) {
      closeSync(fd);
      release();
      throw error instanceof StoreError ? error : storeError(path, error);
    }
  }

  /** Why the store turned read-only, if it did. */
  get failed(): string | undefined {
    return this.#failed;
  }

  /** Bytes the file takes on its file system. */
  allocated(): bigint {
    return fstatSync(this.#fd, { bigint: true }).blocks * 512n;
  }

  readAtSync(target: Uint8Array, offset: bigint): boolean {
    if (!this.#readNow || this.#closed) return false;
    checkRange(this, offset, BigInt(target.length));
    const done = readNow(this.#fd, target, 0, target.length, Number(offset));
    if (done === target.length) return true;
    if (done < 0 && isUnsupported(done)) this.#readNow = false;
    return false;
  }

  readAt(target: Uint8Array, offset: bigint): Promise<void> {
    try {
      this.#begin(offset, BigInt(target.length));
    } catch (error) {
      return Promise.reject(error);
    }
    let done = 0;
    if (this.#readNow) {
      const answer = readNow(this.#fd, target, 0, target.length, Number(offset));
      if (answer === target.length) {
        this.#end();
        return Promise.resolve();
      }
      if (answer > 0) done = answer;
      else if (answer < 0 && !wouldWait(answer) && isUnsupported(answer)) this.#readNow = false;
    }
    return this.#tracked(this.#readRest(target, Number(offset), done));
  }

  async #readRest(target: Uint8Array, offset: number, done: number): Promise<void> {
    while (done < target.length) {
      const count = await new Promise<number>((resolve, reject) =>
        read(this.#fd, target, done, target.length - done, offset + done, (error, n) =>
          error ? reject(this.#error('read', offset + done, error)) : resolve(n),
        ),
      );
      if (count === 0)
        throw new DeviceError('EIO', `${this.path} ends before byte ${this.size}: it was truncated`);
      done += count;
    }
  }

  writeAtSync(source: Uint8Array, offset: bigint): boolean {
    if (source.length > INLINE_BYTES || this.#closed) return false;
    const startedMs = performance.now();
    if (!this.#budget.allows(startedMs)) return false;
    this.#checkWrite(offset, BigInt(source.length));
    this.#writeInline(source, Number(offset), startedMs);
    return true;
  }

  writeAt(source: Uint8Array, offset: bigint, options?: WriteOptions): Promise<void> {
    try {
      this.#checkWrite(offset, BigInt(source.length));
      const startedMs = performance.now();
      if (source.length <= INLINE_BYTES && this.#budget.allows(startedMs)) {
        this.#writeInline(source, Number(offset), startedMs);
        return options?.fua === true ? this.flush() : Promise.resolve();
      }
      this.#begin(offset, BigInt(source.length));
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#tracked(this.#writeAll(source, Number(offset), options?.fua === true));
  }

  #writeInline(source: Uint8Array, offset: number, startedMs: number): void {
    try {
      let done = 0;
      while (done < source.length)
        done += writeSync(this.#fd, source, done, source.length - done, offset + done);
    } catch (error) {
      throw this.#error('write', offset, error);
    }
    this.#budget.took(startedMs, performance.now());
  }

  async #writeAll(source: Uint8Array, offset: number, fua: boolean): Promise<void> {
    let done = 0;
    while (done < source.length) {
      done += await new Promise<number>((resolve, reject) =>
        write(this.#fd, source, done, source.length - done, offset + done, (error, n) =>
          error ? reject(this.#error('write', offset + done, error)) : resolve(n),
        ),
      );
    }
    if (fua) await this.#sync();
  }

  async writeZeroes(offset: bigint, length: bigint, options: WriteZeroesOptions = {}): Promise<void> {
    this.#checkWrite(offset, length);
    this.#begin(offset, length);
    await this.#tracked(this.#zero(Number(offset), Number(length), options));
  }

  async #zero(offset: number, length: number, options: WriteZeroesOptions): Promise<void> {
    if (length > 0 && !(await this.#allocate(offset, length, options.noHole === true))) {
      if (options.fast === true)
        throw new DeviceError('ENOTSUP', `the file system of ${this.path} cannot zero a range quickly`);
      for (let done = 0; done < length; ) {
        const part = ZERO_BLOCK.subarray(0, Math.min(ZERO_BLOCK.length, length - done));
        await this.#writeAll(part, offset + done, false);
        done += part.length;
      }
    }
    if (options.fua === true) await this.#sync();
  }

  /** False when the file system has no such call. */
  async #allocate(offset: number, length: number, keep: boolean): Promise<boolean> {
    if (keep ? !this.#zeroRange : !this.#punch) return false;
    const mode = keep ? AllocateMode.zeroRange : AllocateMode.punchHole;
    const answer = await allocate(this.#fd, mode, offset, length);
    if (answer >= 0) return true;
    if (!isUnsupported(answer))
      throw deviceError(errnoName(answer), `cannot zero ${this.path} at ${offset}: ${errnoName(answer)}`);
    if (keep) this.#zeroRange = false;
    else this.#punch = false;
    return false;
  }

  /** Gives the blocks back where the file system can; what is read there afterwards is zero, or unchanged where it cannot. */
  async trim(offset: bigint, length: bigint, options: WriteOptions = {}): Promise<void> {
    this.#checkWrite(offset, length);
    this.#begin(offset, length);
    const work = async () => {
      if (length > 0n) await this.#allocate(Number(offset), Number(length), false);
      if (options.fua === true) await this.#sync();
    };
    await this.#tracked(work());
  }

  startWriteBack(offset: bigint, length: bigint): void {
    if (this.#closed || this.capabilities.readOnly) return;
    this.#begin(offset, length);
    void this.#tracked(writeBack(this.#fd, Number(offset), Number(length)));
  }

  flush(): Promise<void> {
    try {
      this.#begin(0n, 0n);
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#tracked(this.#sync());
  }

  #sync(): Promise<void> {
    if (this.#failed !== undefined) return Promise.reject(this.#failure());
    return this.capabilities.readOnly ? Promise.resolve() : this.#syncs.request();
  }

  #syncNow(): Promise<void> {
    if (this.#failed !== undefined) return Promise.reject(this.#failure());
    return new Promise<void>((resolve, reject) =>
      fdatasync(this.#fd, (error) => {
        if (!error) return resolve();
        this.#failed ??= `fdatasync of ${this.path} failed: ${messageOf(error)}`;
        this.#onFailed?.(this.#failed);
        reject(new DeviceError('EIO', this.#failed, error));
      }),
    );
  }

  async extents(offset: bigint, length: bigint): Promise<Extent[]> {
    if (this.#closed) throw this.#shutDown();
    checkRange(this, offset, length);
    const end = Number(offset + length);
    const found: Extent[] = [];
    let at = Number(offset);
    while (at < end && found.length < MAX_EXTENTS) {
      const data = seekData(this.#fd, at);
      if (data < 0 && !isPastData(data)) {
        found.push({ offset: BigInt(at), length: BigInt(end - at), zero: false, hole: false });
        break;
      }
      const dataAt = data < 0 ? end : Math.min(data, end);
      if (dataAt > at)
        found.push({ offset: BigInt(at), length: BigInt(dataAt - at), zero: true, hole: true });
      at = dataAt;
      if (at >= end) break;
      const hole = seekHole(this.#fd, at);
      const stop = hole < 0 ? end : Math.min(hole, end);
      found.push({ offset: BigInt(at), length: BigInt(stop - at), zero: false, hole: false });
      at = stop;
    }
    return found;
  }

  /** Copies inside the kernel from another file store; false when the two files cannot. Nothing is said about atomicity. */
  async copyFrom(source: FileStore, offset: bigint, length: bigint): Promise<boolean> {
    this.#checkWrite(offset, length);
    source.#begin(offset, length);
    this.#begin(offset, length);
    const work = async () => {
      let at = Number(offset);
      const end = at + Number(length);
      while (at < end) {
        const done = await copyRange(source.#fd, at, this.#fd, at, end - at);
        if (done === 0) throw new DeviceError('EIO', `${source.path} ends before byte ${end}`);
        if (done < 0) {
          if (isUnsupported(done)) return false;
          throw deviceError(
            errnoName(done),
            `cannot copy ${source.path} to ${this.path} at ${at}: ${errnoName(done)}`,
          );
        }
        at += done;
      }
      return true;
    };
    return this.#tracked(work().finally(() => source.#end()));
  }

  /**
   * Makes this file the same as `source` by sharing its blocks (FICLONE): one instant of the source as other writes see it.
   * False when the file system cannot.
   */
  async cloneFrom(source: FileStore): Promise<boolean> {
    this.#checkWrite(0n, source.size);
    if (source.size !== this.size) return false;
    source.#begin(0n, source.size);
    this.#begin(0n, source.size);
    const work = async () => {
      const done = await cloneFile(source.#fd, this.#fd);
      if (done >= 0) return true;
      if (isUnsupported(done)) return false;
      throw deviceError(
        errnoName(done),
        `cannot share the blocks of ${source.path} with ${this.path}: ${errnoName(done)}`,
      );
    };
    return this.#tracked(work().finally(() => source.#end()));
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#inFlight > 0)
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    closeSync(this.#fd);
    this.#release();
  }

  #begin(offset: bigint, length: bigint): void {
    if (this.#closed) throw this.#shutDown();
    checkRange(this, offset, length);
    this.#inFlight++;
  }

  #end(): void {
    if (--this.#inFlight === 0) this.#idle?.();
  }

  #tracked<T>(work: Promise<T>): Promise<T> {
    return work.finally(() => this.#end());
  }

  #checkWrite(offset: bigint, length: bigint): void {
    if (this.#closed) throw this.#shutDown();
    if (this.#failed !== undefined)
      throw new DeviceError('EROFS', `${this.path} is read-only: ${this.#failed}`);
    if (this.capabilities.readOnly) throw new DeviceError('EROFS', `${this.path} was opened read-only`);
    checkRange(this, offset, length);
  }

  #failure(): DeviceError {
    return new DeviceError('EIO', `${this.#failed}; nothing written since its last flush is certain`);
  }

  #shutDown(): DeviceError {
    return new DeviceError('ESHUTDOWN', `${this.path} was closed`);
  }

  #error(verb: string, offset: number, cause: unknown): DeviceError {
    return deviceError(
      codeOf(cause),
      `cannot ${verb} ${this.path} at byte ${offset}: ${messageOf(cause)}`,
      cause,
    );
  }
}

function openFile(path: string, readOnly: boolean, create: bigint | undefined): number {
  try {
    return openSync(path, readOnly ? 'r' : 'r+');
  } catch (error) {
    if (codeOf(error) !== 'ENOENT' || create === undefined || readOnly) throw storeError(path, error);
  }
  try {
    return openSync(path, 'wx+', 0o600);
  } catch (error) {
    throw storeError(path, error);
  }
}

function storeError(path: string, error: unknown): StoreError {
  const code = codeOf(error) ?? 'EIO';
  const remedy: Record<string, string> = {
    ENOENT: 'give `create` with a size to make it, or correct the path',
    EACCES: 'run as root, or give the file to this user',
    ENOSPC: 'free space there, or choose another directory',
  };
  return new StoreError(code, `cannot open ${path}: ${messageOf(error)}`, {
    cause: error,
    values: { path },
    ...(remedy[code] === undefined ? {} : { remedy: remedy[code] }),
  });
}

/** Makes creations, renames and removals in a directory durable. */
export function syncDirectory(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
