/**
 * How changes come to the device, one commit after the other.
 *
 * A commit that changes tables (allocation, names) goes through the journal: transaction, flush (durable from here on), the
 * same sectors to their places, flush. One that changes data and inodes in place needs no journal: an inode lies in one
 * sector, and what a torn one leaves behind is what nobody was told of.
 *
 * `open` marks the file system `needs_recovery` before the first commit, `close` takes the mark away when everything stands
 * in its place: in between the journal is to be looked at before anything else, by us, by e2fsck, and by the kernel.
 */
import type { Device } from '../device.ts';
import type { Journal } from './journal.ts';
import { Lock } from './lock.ts';
import type { Changes, PageCache } from './page-cache.ts';
import type { Superblock } from './superblock.ts';
import { SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, setNeedsRecovery } from './superblock.ts';

const SECTOR = 512;

/** `durable`: it survives a crash. `settled`: it stands in its place, too. Neither is ever an unhandled rejection. */
export interface Commit {
  readonly durable: Promise<void>;
  readonly settled: Promise<void>;
}

export class Committer {
  readonly #device: Device;
  readonly #cache: PageCache;
  readonly #journal: Journal;
  readonly #superblock: Superblock;
  readonly #order = new Lock();
  #open = false;

  constructor(device: Device, cache: PageCache, journal: Journal, superblock: Superblock) {
    this.#device = device;
    this.#cache = cache;
    this.#journal = journal;
    this.#superblock = superblock;
  }

  get isOpen(): boolean {
    return this.#open;
  }

  /** Blocks that a commit may have at most. */
  get capacity(): number {
    return this.#journal.capacity;
  }

  /** Nothing of the cache is dirty, and no session of the library is mounted: it would keep the old superblock. */
  async open(): Promise<void> {
    await this.#order.run(() =>
      this.#orFail(async () => {
        await this.#mark(true, () => this.#journal.begin());
        this.#open = true;
      }),
    );
  }

  /** As for `open`; every commit is settled. */
  async close(): Promise<void> {
    await this.#order.run(() =>
      this.#orFail(async () => {
        await this.#journal.release();
        await this.#device.flush();
        await this.#mark(false);
        this.#open = false;
      }),
    );
  }

  /** In the order of the calls. `inPlace`: no table changed. */
  commit(changes: Changes, inPlace: boolean): Commit {
    let durable = () => {};
    const settling = this.#order.run(() =>
      this.#orFail(async () => {
        let committed = false;
        try {
          if (inPlace && !changes.extentNode && this.#superblock.inodeSize <= SECTOR) {
            await Promise.all([this.#journal.release(), changes.put()]);
          } else {
            await this.#journal.write(changes.blocks(this.#superblock.blockSize));
            durable();
            await changes.put();
          }
          await this.#device.flush();
          committed = true;
        } finally {
          changes.done(committed);
        }
      }),
    );
    settling.catch(() => {});
    const early = new Promise<void>((resolve) => {
      durable = resolve;
    });
    // What fails after it was durable is told to those who come later.
    return { durable: Promise.race([early, settling]), settled: settling };
  }

  async #mark(needed: boolean, also?: () => Promise<void>): Promise<void> {
    const bytes = Buffer.alloc(SUPERBLOCK_SIZE);
    await this.#cache.read(bytes, 0, SUPERBLOCK_SIZE, SUPERBLOCK_OFFSET);
    setNeedsRecovery(bytes, needed);
    await this.#cache.write(bytes, 0, SUPERBLOCK_SIZE, SUPERBLOCK_OFFSET);
    const changes = this.#cache.takeDirty();
    try {
      await Promise.all([changes.put(), also?.()]);
      await this.#device.flush();
    } finally {
      changes.done(false);
    }
  }

  async #orFail<T>(body: () => Promise<T>): Promise<T> {
    if (this.#cache.failure !== undefined) throw this.#cache.failure;
    try {
      return await body();
    } catch (error) {
      this.#cache.fail(error);
      throw error;
    }
  }
}
