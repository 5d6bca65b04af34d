/**
 * What is proven of one target, a leaf of 1 MiB at a time.
 *
 *   unknown   nothing
 *   sent      the tag of the source's leaf is known, nothing was reflected onto the leaf since
 *   busy      being hashed or read back; what is reflected onto it meanwhile makes it unknown
 *   proven    the target was read back and held what the source held (or both are holes by their extent maps); what was
 *             reflected onto it since is kept as a list of ranges, until the list is long: then the leaf is unknown
 *
 * Tags of the source outlive the process in a sparse file: 64 bytes of header, then a tag per leaf, zeroes where there is none. Like
 * the journal of the copy it is not synced. A process that goes on replays the whole log, and with each record `touch` is called:
 * what was written since a tag was taken is unknown then. A tag that was torn is found like any difference, and looked into.
 */
import { closeSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import type { Leaf } from './leaf-tag.ts';
import { LEAF, TAG_BYTES, TAG_KEY_BYTES } from './leaf-tag.ts';

const STATE = { unknown: 0, sent: 1, busy: 2, proven: 3 } as const;
/** Longest list of ranges of one leaf, and bytes they come to, before the leaf counts as unknown. */
const MAX_RANGES = 32;
const MAX_TOUCHED = LEAF / 4;
const TAGS_PER_PAGE = 4096;

/** Header of the file: magic, size of the disk, generation of the write log, key. */
const FILE = { magic: 0, diskSize: 8, generation: 16, key: 32, size: 64 } as const;
const FILE_MAGIC = Buffer.from('CHGOPRF1', 'latin1');

export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

export class ProofTree {
  readonly leaves: number;
  readonly #size: number;
  readonly #states: Uint8Array;
  readonly #pages = new Map<number, Buffer>();
  readonly #touched = new Map<number, ByteRange[]>();
  /** Times in a row that a leaf was different with nothing reflected onto it. */
  readonly #different = new Map<number, number>();
  #proven = 0;
  #fd: number | undefined;

  constructor(size: number) {
    this.#size = size;
    this.leaves = Math.ceil(size / LEAF);
    this.#states = new Uint8Array(this.leaves);
  }

  /** Leaves that are not proven at all. */
  get left(): number {
    return this.leaves - this.#proven;
  }

  /** Bytes in proven leaves. */
  get provenBytes(): number {
    return Math.min(this.#size, this.#proven * LEAF);
  }

  /** Ranges of proven leaves that were reflected onto since. */
  touched(): ByteRange[] {
    return [...this.#touched.values()].flat();
  }

  get touchedRanges(): number {
    return this.#touched.size;
  }

  leaf(index: number): Leaf {
    const offset = index * LEAF;
    return { index, offset, length: Math.min(LEAF, this.#size - offset) };
  }

  /** The first leaf from `from` on that is not proven, or with `touched` was touched since. */
  next(from: number, touched: boolean): number | undefined {
    for (let index = from; index < this.leaves; index++)
      if (this.#states[index] !== STATE.proven || (touched && this.#touched.has(index))) return index;
    return undefined;
  }

  isProven(index: number): boolean {
    return this.#states[index] === STATE.proven;
  }

  /** [start, start + length) is about to be written on the target. */
  touch(start: number, length: number): void {
    const end = start + length;
    for (let index = Math.floor(start / LEAF); index * LEAF < end; index++) {
      this.#different.delete(index);
      const from = Math.max(start, index * LEAF);
      const to = Math.min(end, (index + 1) * LEAF);
      if (this.#states[index] !== STATE.proven || to - from > MAX_TOUCHED) {
        this.#set(index, STATE.unknown);
        continue;
      }
      const ranges = this.#touched.get(index) ?? [];
      const last = ranges.at(-1);
      if (last !== undefined && from <= last.end && to >= last.start)
        ranges[ranges.length - 1] = { start: Math.min(from, last.start), end: Math.max(to, last.end) };
      else ranges.push({ start: from, end: to });
      const bytes = ranges.reduce((sum, range) => sum + range.end - range.start, 0);
      if (ranges.length > MAX_RANGES || bytes > MAX_TOUCHED) this.#set(index, STATE.unknown);
      else this.#touched.set(index, ranges);
    }
  }

  /** It is being read from now on. The tag of the source, when it is still right. */
  begin(index: number): Buffer | undefined {
    const tag = this.#states[index] === STATE.sent ? this.#tag(index) : undefined;
    this.#set(index, STATE.busy);
    return tag;
  }

  /** False: something was reflected onto it since `begin`. */
  isUndisturbed(index: number): boolean {
    return this.#states[index] === STATE.busy;
  }

  sent(index: number, tag: Uint8Array): void {
    if (!this.isUndisturbed(index)) return;
    this.#keepTag(index, tag);
    this.#set(index, STATE.sent);
  }

  /** `tag` of both sides, or undefined: both are holes. */
  proven(index: number, tag: Uint8Array | undefined): void {
    if (!this.isUndisturbed(index)) return;
    this.#different.delete(index);
    if (tag !== undefined) this.#keepTag(index, tag);
    else if (this.#tag(index) !== undefined) this.#keepTag(index, Buffer.alloc(TAG_BYTES));
    this.#set(index, STATE.proven);
  }

  /** Source and target differ, or seemed to because a write is not reflected yet; how often in a row. */
  different(index: number): number {
    if (!this.isUndisturbed(index)) return 0;
    const times = (this.#different.get(index) ?? 0) + 1;
    this.#set(index, STATE.unknown);
    this.#different.set(index, times);
    return times;
  }

  /** Given up before it was read. */
  abandon(index: number): void {
    if (this.isUndisturbed(index)) this.#set(index, STATE.unknown);
  }

  /** All are to be read back again; tags of the source that are right stay. */
  forget(): void {
    for (let index = 0; index < this.leaves; index++)
      if (this.#states[index] === STATE.proven) {
        const clean = !this.#touched.has(index) && this.#tag(index) !== undefined;
        this.#set(index, clean ? STATE.sent : STATE.unknown);
      }
  }

  /** Keeps tags of the source in `file` from now on. Without room for it nothing is kept. */
  keepIn(file: string, generation: Uint8Array, key: Uint8Array): void {
    const head = Buffer.alloc(FILE.size);
    FILE_MAGIC.copy(head, FILE.magic);
    head.writeBigUInt64LE(BigInt(this.#size), FILE.diskSize);
    head.set(generation, FILE.generation);
    head.set(key, FILE.key);
    try {
      rmSync(file, { force: true });
      this.#fd = openSync(file, 'wx', 0o600);
      writeSync(this.#fd, head, 0, head.length, 0);
    } catch {
      this.close();
    }
  }

  /** Goes on with the tags of `file`; returns their key, or undefined: none, or of another copy. */
  resumeFrom(file: string, generation: Uint8Array): Uint8Array | undefined {
    let fd: number | undefined;
    try {
      fd = openSync(file, 'r+');
      const head = Buffer.alloc(FILE.size);
      if (readSync(fd, head, 0, head.length, 0) !== head.length) throw new RangeError('no header');
      const right =
        head.subarray(0, FILE_MAGIC.length).equals(FILE_MAGIC) &&
        head.readBigUInt64LE(FILE.diskSize) === BigInt(this.#size) &&
        head.subarray(FILE.generation, FILE.key).equals(generation);
      if (!right) throw new RangeError('of another copy');
      this.#load(fd);
      this.#fd = fd;
      return Buffer.from(head.subarray(FILE.key, FILE.key + TAG_KEY_BYTES));
    } catch {
      if (fd !== undefined) closeSync(fd);
      return undefined;
    }
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }

  #load(fd: number): void {
    for (let first = 0; first < this.leaves; first += TAGS_PER_PAGE) {
      const page = Buffer.alloc(TAGS_PER_PAGE * TAG_BYTES);
      const count = readSync(fd, page, 0, page.length, FILE.size + first * TAG_BYTES);
      if (count === 0) return;
      let found = false;
      for (let at = 0; at < TAGS_PER_PAGE && first + at < this.leaves; at++)
        if (page.subarray(at * TAG_BYTES, (at + 1) * TAG_BYTES).some((byte) => byte !== 0)) {
          this.#states[first + at] = STATE.sent;
          found = true;
        }
      if (found) this.#pages.set(first / TAGS_PER_PAGE, page);
    }
  }

  #set(index: number, state: number): void {
    if (this.#states[index] === STATE.proven) this.#proven--;
    if (state === STATE.proven) this.#proven++;
    this.#states[index] = state;
    this.#touched.delete(index);
  }

  #tag(index: number): Buffer | undefined {
    const at = (index % TAGS_PER_PAGE) * TAG_BYTES;
    const tag = this.#pages.get(Math.floor(index / TAGS_PER_PAGE))?.subarray(at, at + TAG_BYTES);
    return tag?.some((byte) => byte !== 0) === true ? tag : undefined;
  }

  #keepTag(index: number, tag: Uint8Array): void {
    const number = Math.floor(index / TAGS_PER_PAGE);
    let page = this.#pages.get(number);
    if (page === undefined) {
      page = Buffer.alloc(TAGS_PER_PAGE * TAG_BYTES);
      this.#pages.set(number, page);
    }
    page.set(tag, (index % TAGS_PER_PAGE) * TAG_BYTES);
    if (this.#fd === undefined) return;
    try {
      writeSync(this.#fd, tag, 0, TAG_BYTES, FILE.size + index * TAG_BYTES);
    } catch {
      // No room: the next process hashes again.
      this.close();
    }
  }
}
