/**
 * A write-back cache between libext2fs and the device. libext2fs writes each block of metadata many times for one
 * operation; none of it reaches the device before a commit. So between two commits the device holds exactly the state of
 * the last one: a consistent file system.
 *
 * A page is clean (equal to the device), dirty (`base` holds the device's contents, or null when they were never read), or
 * in flight (a commit is writing it; it may become dirty again meanwhile). Dirty and in-flight pages are never evicted.
 * A page is at least one block of the file system. A commit that failed leaves the cache failed for ever: what the device holds is then unknown, and trying again would
 * pretend otherwise.
 */
import type { Device } from '../device.ts';
import type { BlockImage } from './journal.ts';
import { EXTENT_MAGIC } from './journal-inode.ts';

const SMALLEST_PAGE = 4096;
const SECTOR = 512;
/** Pages read together on a miss. */
const READ_AHEAD = 8;

interface Page {
  readonly data: Buffer;
  base: Buffer | null | undefined;
  inFlight: number;
}

interface Range {
  readonly offset: number;
  readonly data: Buffer;
}

/** What one commit changes, as of one instant. */
export interface Changes {
  /** Changed sectors, in order. */
  readonly ranges: readonly Range[];
  readonly bytes: number;
  /** A node of an extent tree is among them: it has a checksum of its own, over all of its sectors. */
  readonly extentNode: boolean;
  /** The blocks of the file system that have changed sectors. */
  blocks(blockSize: number): BlockImage[];
  /** Writes the changed sectors to their places; no flush. */
  put(): Promise<void>;
  /** To be called once, when the device holds them, or failed. */
  done(committed: boolean): void;
}

export interface CacheCounters {
  readonly hits: number;
  readonly misses: number;
  readonly commits: number;
  readonly bytesCommitted: number;
  readonly dirtyPages: number;
}

export class PageCache {
  readonly #device: Device;
  readonly #size: number;
  readonly pageSize: number;
  readonly #maxPages: number;
  readonly #pages = new Map<number, Page>();
  readonly #dirty = new Set<number>();
  #failure: unknown;
  #hits = 0;
  #misses = 0;
  #commits = 0;
  #bytesCommitted = 0;

  /** `cacheBytes`: clean pages kept beyond those that must be kept. */
  constructor(device: Device, blockSize: number, cacheBytes: number) {
    this.#device = device;
    this.#size = Number(device.size);
    this.pageSize = Math.max(SMALLEST_PAGE, blockSize);
    this.#maxPages = Math.ceil(cacheBytes / this.pageSize);
  }

  /** Of the device. */
  get size(): bigint {
    return this.#device.size;
  }

  get dirtyPages(): number {
    return this.#dirty.size;
  }

  /** Why a commit failed, or undefined. */
  get failure(): unknown {
    return this.#failure;
  }

  /** A commit failed: for ever. */
  fail(error: unknown): void {
    this.#failure ??= error;
  }

  counters(): CacheCounters {
    return {
      hits: this.#hits,
      misses: this.#misses,
      commits: this.#commits,
      bytesCommitted: this.#bytesCommitted,
      dirtyPages: this.#dirty.size,
    };
  }

  async read(target: Buffer, targetOffset: number, length: number, position: number): Promise<void> {
    this.#check(position, length);
    for (let done = 0; done < length; ) {
      const at = position + done;
      const index = Math.floor(at / this.pageSize);
      const within = at - index * this.pageSize;
      const page = this.#pages.get(index) ?? (await this.#load(index, position + length));
      const take = Math.min(this.pageSize - within, length - done);
      page.data.copy(target, targetOffset + done, within, within + take);
      done += take;
    }
  }

  async write(source: Buffer, sourceOffset: number, length: number, position: number): Promise<void> {
    this.#check(position, length);
    for (let done = 0; done < length; ) {
      const at = position + done;
      const index = Math.floor(at / this.pageSize);
      const within = at - index * this.pageSize;
      const take = Math.min(this.pageSize - within, length - done);
      let page = this.#pages.get(index);
      if (page === undefined) {
        if (take === this.#pageLength(index)) {
          page = { data: Buffer.allocUnsafeSlow(take), base: null, inFlight: 0 };
          this.#keep(index, page);
        } else page = await this.#load(index, at + 1);
      }
      if (page.base === undefined) page.base = Buffer.from(page.data);
      this.#dirty.add(index);
      source.copy(page.data, within, sourceOffset + done, sourceOffset + done + take);
      done += take;
    }
  }

  /** libext2fs's barriers; the commit is ours. */
  async flush(): Promise<void> {}

  /** Freed blocks are not passed on: the write log would have to carry their zeroes. */
  async discard(): Promise<void> {}

  /** Takes everything that differs from the device. Synchronous, hence one instant. */
  takeDirty(): Changes {
    const ranges: Range[] = [];
    const taken: { page: Page; offset: number; data: Buffer; from: number; to: number }[] = [];
    let bytes = 0;
    let extentNode = false;
    for (const index of [...this.#dirty].sort((a, b) => a - b)) {
      const page = this.#pages.get(index)!;
      const changed = changedSectors(page.data, page.base);
      if (changed !== undefined) {
        const { from, to } = changed;
        extentNode ||= page.base !== null && page.base !== undefined && hasExtentNode(page.base);
        page.inFlight++;
        const data = Buffer.from(page.data);
        const offset = index * this.pageSize;
        taken.push({ page, offset, data, from, to });
        ranges.push({ offset: offset + from, data: data.subarray(from, to) });
        bytes += to - from;
      }
      page.base = undefined;
    }
    this.#dirty.clear();
    return {
      ranges,
      bytes,
      extentNode,
      blocks: (blockSize) =>
        taken.flatMap(({ offset, data, from, to }) => {
          const images: BlockImage[] = [];
          for (let at = Math.floor(from / blockSize) * blockSize; at < to; at += blockSize) {
            images.push({ block: (offset + at) / blockSize, data: data.subarray(at, at + blockSize) });
          }
          return images;
        }),
      put: async () => {
        await Promise.all(merge(ranges).map((run) => this.#device.writeAt(run.data, BigInt(run.offset))));
      },
      done: (committed) => {
        for (const { page } of taken) page.inFlight--;
        if (!committed) return;
        this.#commits++;
        this.#bytesCommitted += bytes;
      },
    };
  }

  async #load(index: number, wantedEnd: number): Promise<Page> {
    this.#misses++;
    const wanted = Math.ceil(wantedEnd / this.pageSize) - index;
    let count = 1;
    while (
      count < Math.max(READ_AHEAD, wanted) &&
      (index + count) * this.pageSize < this.#size &&
      !this.#pages.has(index + count)
    ) {
      count++;
    }
    const offset = index * this.pageSize;
    const buffer = Buffer.allocUnsafeSlow(Math.min(count * this.pageSize, this.#size - offset));
    await this.#device.readAt(buffer, BigInt(offset));
    for (let i = 0; i < count; i++) {
      // Nobody but us fills the cache while the library waits for this read; a page that appeared meanwhile is newer.
      if (this.#pages.has(index + i)) continue;
      const data = Buffer.from(buffer.subarray(i * this.pageSize, (i + 1) * this.pageSize));
      this.#keep(index + i, { data, base: undefined, inFlight: 0 });
    }
    return this.#pages.get(index)!;
  }

  #keep(index: number, page: Page): void {
    this.#pages.set(index, page);
    if (this.#pages.size <= this.#maxPages) return;
    let left = 64;
    for (const [old, candidate] of this.#pages) {
      if (left-- === 0 || this.#pages.size <= this.#maxPages) return;
      this.#pages.delete(old);
      const pinned = candidate.base !== undefined || candidate.inFlight > 0 || old === index;
      if (pinned) this.#pages.set(old, candidate);
    }
  }

  #pageLength(index: number): number {
    return Math.min(this.pageSize, this.#size - index * this.pageSize);
  }

  #check(position: number, length: number): void {
    this.#hits++;
    if (position < 0 || length < 0 || position + length > this.#size) {
      throw new RangeError(`${position}+${length} lies outside of the disk of ${this.#size} bytes`);
    }
  }
}

/** Whether a block of the page begins as nodes of extent trees do; blocks have at least 1 KiB. */
function hasExtentNode(page: Buffer): boolean {
  for (let at = 0; at + 2 <= page.length; at += 1024) if (page.readUInt16LE(at) === EXTENT_MAGIC) return true;
  return false;
}

/** First and last changed sector of a page, or undefined when nothing changed. */
function changedSectors(
  data: Buffer,
  base: Buffer | null | undefined,
): { from: number; to: number } | undefined {
  if (base === null || base === undefined) return { from: 0, to: data.length };
  let from = 0;
  while (from < data.length && equal(data, base, from)) from += SECTOR;
  if (from >= data.length) return undefined;
  let to = data.length;
  for (;;) {
    const start = Math.floor((to - 1) / SECTOR) * SECTOR;
    if (!equal(data, base, start)) return { from, to };
    to = start;
  }
}

function equal(a: Buffer, b: Buffer, from: number): boolean {
  const to = Math.min(from + SECTOR, a.length);
  return a.compare(b, from, to, from, to) === 0;
}

const LONGEST_RUN = 256 * 1024;

/** Adjacent ranges as one write. `ranges` are in order. */
function merge(ranges: readonly Range[]): Range[] {
  const runs: { offset: number; parts: Buffer[]; length: number }[] = [];
  for (const range of ranges) {
    const last = runs.at(-1);
    if (last !== undefined && last.offset + last.length === range.offset && last.length < LONGEST_RUN) {
      last.parts.push(range.data);
      last.length += range.data.length;
    } else runs.push({ offset: range.offset, parts: [range.data], length: range.data.length });
  }
  return runs.map((run) => ({
    offset: run.offset,
    data: run.parts.length === 1 ? run.parts[0]! : Buffer.concat(run.parts),
  }));
}
