/**
 * A write-back cache between libext2fs and the device. libext2fs writes each block of metadata many times for one
 * operation; none of it reaches the device before a commit. So between two commits the device holds exactly the state of
 * the last one: a consistent file system.
 *
 * A page is clean (equal to the device), dirty (`base` holds the device's contents, or null when they were never read), or
 * in flight (a commit is writing it; it may become dirty again meanwhile). Dirty and in-flight pages are never evicted.
 * A commit that failed leaves the cache failed for ever: what the device holds is then unknown, and trying again would
 * pretend otherwise.
 */
import type { Device } from '../device.ts';

export const PAGE_SIZE = 4096;
const SECTOR = 512;
/** Pages read together on a miss. */
const READ_AHEAD = 8;

interface Page {
  readonly data: Buffer;
  base: Buffer | null | undefined;
  inFlight: number;
}

/** What one commit writes: changed sectors only. */
export interface Commit {
  readonly ranges: readonly { readonly offset: number; readonly data: Buffer }[];
  readonly bytes: number;
  /** Writes the ranges and flushes the device; to be called once. */
  write(): Promise<void>;
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
  readonly #maxPages: number;
  readonly #pages = new Map<number, Page>();
  readonly #dirty = new Set<number>();
  #failure: unknown;
  #hits = 0;
  #misses = 0;
  #commits = 0;
  #bytesCommitted = 0;

  /** `maxPages`: clean pages kept beyond those that must be kept. */
  constructor(device: Device, maxPages = 16_384) {
    this.#device = device;
    this.#size = Number(device.size);
    this.#maxPages = maxPages;
  }

  get dirtyPages(): number {
    return this.#dirty.size;
  }

  /** Why a commit failed, or undefined. */
  get failure(): unknown {
    return this.#failure;
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
      const index = Math.floor(at / PAGE_SIZE);
      const within = at - index * PAGE_SIZE;
      const page = this.#pages.get(index) ?? (await this.#load(index, position + length));
      const take = Math.min(PAGE_SIZE - within, length - done);
      page.data.copy(target, targetOffset + done, within, within + take);
      done += take;
    }
  }

  async write(source: Buffer, sourceOffset: number, length: number, position: number): Promise<void> {
    this.#check(position, length);
    for (let done = 0; done < length; ) {
      const at = position + done;
      const index = Math.floor(at / PAGE_SIZE);
      const within = at - index * PAGE_SIZE;
      const take = Math.min(PAGE_SIZE - within, length - done);
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
  takeDirty(): Commit {
    const ranges: { offset: number; data: Buffer }[] = [];
    const taken: Page[] = [];
    let bytes = 0;
    for (const index of [...this.#dirty].sort((a, b) => a - b)) {
      const page = this.#pages.get(index)!;
      const changed = changedSectors(page.data, page.base);
      page.base = undefined;
      if (changed === undefined) continue;
      page.inFlight++;
      taken.push(page);
      ranges.push({
        offset: index * PAGE_SIZE + changed.from,
        data: Buffer.from(page.data.subarray(changed.from, changed.to)),
      });
      bytes += changed.to - changed.from;
    }
    this.#dirty.clear();
    return { ranges, bytes, write: () => this.#write(ranges, taken, bytes) };
  }

  async #write(
    ranges: readonly { offset: number; data: Buffer }[],
    taken: readonly Page[],
    bytes: number,
  ): Promise<void> {
    try {
      await Promise.all(merge(ranges).map((run) => this.#device.writeAt(run.data, BigInt(run.offset))));
      await this.#device.flush();
      this.#commits++;
      this.#bytesCommitted += bytes;
    } catch (error) {
      this.#failure ??= error;
      throw error;
    } finally {
      for (const page of taken) page.inFlight--;
    }
  }

  async #load(index: number, wantedEnd: number): Promise<Page> {
    this.#misses++;
    const wanted = Math.ceil(wantedEnd / PAGE_SIZE) - index;
    let count = 1;
    while (
      count < Math.max(READ_AHEAD, wanted) &&
      (index + count) * PAGE_SIZE < this.#size &&
      !this.#pages.has(index + count)
    ) {
      count++;
    }
    const offset = index * PAGE_SIZE;
    const buffer = Buffer.allocUnsafeSlow(Math.min(count * PAGE_SIZE, this.#size - offset));
    await this.#device.readAt(buffer, BigInt(offset));
    for (let i = 0; i < count; i++) {
      // Nobody but us fills the cache while the library waits for this read; a page that appeared meanwhile is newer.
      if (this.#pages.has(index + i)) continue;
      const data = Buffer.from(buffer.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE));
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
    return Math.min(PAGE_SIZE, this.#size - index * PAGE_SIZE);
  }

  #check(position: number, length: number): void {
    this.#hits++;
    if (position < 0 || length < 0 || position + length > this.#size) {
      throw new RangeError(`${position}+${length} lies outside of the disk of ${this.#size} bytes`);
    }
  }
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
function merge(ranges: readonly { offset: number; data: Buffer }[]): { offset: number; data: Buffer }[] {
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
