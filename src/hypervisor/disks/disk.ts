/**
 * One disk of the block process: the image file, its stack of filters, and what must outlive this process beside the image:
 *
 *   <path>.lock     who has it open (FileStore)
 *   <path>.invalid  it is the target of a copy that was not cut (InvalidMark)
 *   <path>.fence    mode of the fence, and where late writes are set aside; put up again before anybody reaches the disk
 *   <path>.logged   generation of the copy's write log that knows every write since the copy began
 *   <path>.mirror   where it may differ from the other half of its mirror (MirrorMap)
 *   <path>.failed   a flush of it failed once: it is read-only
 *   <path>.spilled  its write log is incomplete since then: after a restart the disk is compared as a whole
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import type { FenceMode, InvalidMark, LogMark } from '../../blockdev/index.ts';
import {
  DiskStack,
  FailedFilter,
  FileStore,
  failedReason,
  invalidMark,
  invalidReason,
  LogAside,
  MirrorMap,
  noteFailed,
  syncDirectory,
} from '../../blockdev/index.ts';
import { CodedError, codeOf } from '../../common/index.ts';
import type { DiskStatus } from './commands.ts';

/** `unknown-disk`, `unknown-copy`, `in-use`, `not-valid`, `changed`, `EINVAL`, `fence-file`. */
export class DiskError extends CodedError {}

export interface DiskListeners {
  readonly lateWrite: (disk: Disk, offset: bigint, length: bigint) => void;
  readonly failed: (disk: Disk, reason: string) => void;
}

interface KeptFence {
  readonly mode: 'refuse' | 'set-aside';
  readonly directory?: string;
}

export class Disk {
  readonly id: string;
  readonly path: string;
  readonly readOnly: boolean;
  readonly store: FileStore;
  readonly stack: DiskStack;
  readonly mark: InvalidMark;
  readonly logMark: LogMark;
  /** Writes that guests had made when it was last cut as a source. */
  writesAtCut: number | undefined;

  private constructor(id: string, path: string, readOnly: boolean, store: FileStore, stack: DiskStack) {
    this.id = id;
    this.path = path;
    this.readOnly = readOnly;
    this.store = store;
    this.stack = stack;
    this.mark = invalidMark(path);
    this.logMark = logMark(path);
  }

  /** Throws StoreError, or DiskError `fence-file`. */
  static async open(
    id: string,
    path: string,
    options: { readonly create?: bigint; readonly readOnly?: boolean },
    listeners: DiskListeners,
  ): Promise<Disk> {
    const store = FileStore.open(path, {
      ...options,
      onFailed: (reason) => {
        noteFailed(path, reason);
        listeners.failed(disk, reason);
      },
    });
    let disk: Disk;
    try {
      const failed = failedReason(path);
      const device = failed === undefined ? store : new FailedFilter(store, failed);
      const late = (offset: bigint, length: bigint) => listeners.lateWrite(disk, offset, length);
      disk = new Disk(id, path, options.readOnly === true, store, new DiskStack(id, device, late));
      const { stack } = disk;
      if (!disk.readOnly) stack.mirror.track(MirrorMap.open(disk.mirrorMap, Number(store.size)));
      const kept = disk.#keptFence();
      if (kept !== undefined) await disk.#raise(kept);
    } catch (error) {
      await store.close();
      throw error;
    }
    return disk;
  }

  get mirrorMap(): string {
    return `${this.path}.mirror`;
  }

  /** Written by others than its guests: nobody can tell any more where it differs from its other half. */
  forgetMirror(): void {
    this.stack.mirror.track(undefined);
    rmSync(this.mirrorMap, { force: true });
  }

  get size(): bigint {
    return this.store.size;
  }

  /** Why it is read-only for ever, if a flush failed: in this process or, noted beside it, in an earlier one. */
  get failed(): string | undefined {
    const { store } = this.stack;
    return this.store.failed ?? (store instanceof FailedFilter ? store.reason : undefined);
  }

  /** Why it must not be used, if it is the target of a copy that was not cut. */
  get invalid(): string | undefined {
    return invalidReason(this.path);
  }

  get spilled(): boolean {
    return existsSync(`${this.path}.spilled`);
  }

  set spilled(value: boolean) {
    const file = `${this.path}.spilled`;
    if (value) keep(file, 'the write log of this disk is incomplete\n');
    else rmSync(file, { force: true });
  }

  /** Puts the fence up or takes it down; durable when it returns. A directory that is not given is `<path>.aside`. */
  async setFence(mode: FenceMode, directory?: string): Promise<void> {
    const file = `${this.path}.fence`;
    if (mode === 'none') {
      await this.#lower();
      rmSync(file, { force: true });
      syncDirectory(dirname(file));
      return;
    }
    const kept: KeptFence =
      mode === 'refuse' ? { mode } : { mode, directory: directory ?? `${this.path}.aside` };
    if (this.stack.fence.mode === mode && this.#keptFence()?.directory === kept.directory) return;
    await this.#raise(kept);
    try {
      keep(file, `${JSON.stringify(kept)}\n`);
    } catch (error) {
      // A fence that the next process does not know would let go of what it had set aside.
      await this.#lower();
      throw error;
    }
  }

  status(log?: DiskStatus['log']): DiskStatus {
    const { top, fence } = this.stack;
    return {
      id: this.id,
      path: this.path,
      size: String(this.size),
      allocated: String(this.store.allocated()),
      fence: fence.mode,
      lateWrites: fence.lateWrites,
      lateBytes: String(fence.lateBytes),
      ...(log === undefined ? {} : { log }),
      ...(this.failed === undefined ? {} : { failed: this.failed }),
      reads: top.reads,
      writes: top.writes,
      flushes: top.flushes,
      bytesRead: String(top.bytesRead),
      bytesWritten: String(top.bytesWritten),
      ...(top.lastWriteMs === undefined
        ? {}
        : { lastWriteMsAgo: Math.round(performance.now() - top.lastWriteMs) }),
    };
  }

  /** Flushes and closes; a disk whose flush failed is closed all the same. */
  async close(): Promise<void> {
    try {
      await this.stack.fence.flush();
    } finally {
      this.stack.mirror.track(undefined);
      await this.stack.top.close();
    }
  }

  async #raise(kept: KeptFence): Promise<void> {
    const { fence } = this.stack;
    if (kept.mode === 'refuse') {
      await this.#lower(() => fence.raise('refuse'));
      return;
    }
    const directory = kept.directory ?? `${this.path}.aside`;
    const aside = await LogAside.open(directory, { diskId: this.id, diskSize: this.size });
    fence.raise('set-aside', aside);
    fence.lateWrites += aside.found.writes;
    fence.lateBytes += aside.found.bytes;
  }

  /** What was set aside is kept under another name, for people: the next fence begins with nothing. */
  async #lower(then: () => void = () => {}): Promise<void> {
    const aside = this.stack.fence.lower();
    then();
    if (aside === undefined) return;
    await aside.close();
    if (aside instanceof LogAside) renameSync(aside.directory, `${aside.directory}.released-${Date.now()}`);
  }

  #keptFence(): KeptFence | undefined {
    const file = `${this.path}.fence`;
    let text: string;
    try {
      text = readFileSync(file, 'utf8');
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return undefined;
      throw error;
    }
    let kept: KeptFence | undefined;
    try {
      kept = JSON.parse(text) as KeptFence;
    } catch {
      // Not JSON: told below.
    }
    if (kept?.mode === 'refuse' || kept?.mode === 'set-aside') return kept;
    throw new DiskError('fence-file', `${file} names no mode of a fence`, {
      remedy: 'it says that the disk is fenced: find out which partition owns the disk before removing it',
    });
  }
}

/** `<path>.logged` */
function logMark(path: string): LogMark {
  const file = `${path}.logged`;
  return {
    set: (generation) => keep(file, `${generation}\n`),
    get: () => (existsSync(file) ? readFileSync(file, 'utf8').trim() : undefined),
    clear: () => {
      if (!existsSync(file)) return;
      rmSync(file);
      syncDirectory(dirname(file));
    },
  };
}

/** Replaces a small file durably. */
function keep(file: string, text: string): void {
  const fd = openSync(`${file}.new`, 'w', 0o600);
  try {
    // Loops over what the kernel cuts short.
    writeFileSync(fd, text);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(`${file}.new`, file);
  syncDirectory(dirname(file));
}
