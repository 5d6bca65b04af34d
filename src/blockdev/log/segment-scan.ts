/**
 * The records of one segment, as many at a time as one read brought: nothing is awaited per record. Where bytes are not what
 * was written, a finding stands in their place.
 */
import { fstatSync, read } from 'node:fs';
import { readNow } from 'block-io';
import type { RecordKindName } from './format.ts';
import {
  isRecordHeader,
  isRecordIntact,
  MAX_PAYLOAD,
  RECORD,
  RECORD_KIND_NAMES,
  RecordFlag,
  readU53,
} from './format.ts';

export interface LogRecord {
  readonly sequence: bigint;
  readonly timeNs: bigint;
  readonly kind: RecordKindName;
  readonly fua: boolean;
  readonly noHole: boolean;
  readonly address: number;
  readonly length: number;
  /** Where the record's header stands: segment number, byte offset in it. */
  readonly segment: number;
  readonly offset: number;
  readonly payload: number;
}

export const FINDING_KINDS = [
  'torn-tail',
  'damaged-header',
  'damaged-data',
  'truncated',
  'gap',
  'foreign',
  'segment-header',
  'missing-segment',
] as const;
export type FindingKind = (typeof FINDING_KINDS)[number];

export interface Finding {
  readonly kind: FindingKind;
  readonly segment: number;
  readonly offset: number;
  /** What the header says, when it can be believed. */
  readonly sequence?: bigint;
  readonly address?: number;
  readonly length?: number;
  readonly reason: string;
}

export type ScanItem = { readonly record: LogRecord; readonly data: Buffer } | { readonly finding: Finding };

const CHUNK = 1024 * 1024;
const MIN_CHUNK = 4096;

export interface SegmentScanOptions {
  readonly segment: number;
  /** Of the log: it may end inside a record. */
  readonly last: boolean;
  /** Where the first record stands, and its sequence. */
  readonly start: number;
  readonly expected: bigint;
  /** First 4 bytes of the generation. */
  readonly tag: number;
  /** Go on behind a damaged place, looking for the next intact record. */
  readonly keepGoing: boolean;
}

export class SegmentScan {
  readonly #fd: number;
  readonly #options: SegmentScanOptions;
  /** Bytes [base, base + filled) of the file stand in `#buffer`; the next record begins at byte `#at` of the file. */
  #buffer: Buffer;
  #base: number;
  #filled = 0;
  #at: number;
  /** 0: any. */
  #expected: bigint;
  /** No byte follows those in the buffer. */
  #ended = false;
  #over = false;

  constructor(fd: number, options: SegmentScanOptions) {
    this.#fd = fd;
    this.#options = options;
    this.#at = options.start;
    this.#base = options.start;
    this.#expected = options.expected;
    // A short segment does not need a long buffer; one that grows meanwhile is read in more steps.
    this.#buffer = Buffer.allocUnsafe(chunkFor(fd, options.start));
  }

  /** The next records and findings, none at the end. Data is lent until the next call. */
  async next(): Promise<ScanItem[]> {
    const items: ScanItem[] = [];
    for (;;) {
      const wanted = this.#over ? undefined : this.#step(items);
      if (items.length > 0 || wanted === undefined) return items;
      if (wanted > 0) await this.#fill(wanted);
      else items.push(await this.#noHeader());
    }
  }

  /**
   * Takes what the buffer holds. Returns how many bytes from `#at` on are wanted to go on, 0 where no header stands,
   * undefined at the end.
   */
  #step(items: ScanItem[]): number | undefined {
    const buffer = this.#buffer;
    const { segment, last, tag, keepGoing } = this.#options;
    for (;;) {
      const at = this.#at;
      const here = at - this.#base;
      const available = this.#filled - here;
      if (available < RECORD.size) {
        if (!this.#ended) return RECORD.size;
        if (available > 0) {
          const reason = `${available} bytes of a record's header`;
          items.push(found(last ? 'torn-tail' : 'truncated', segment, at, reason));
        }
        return this.#end();
      }
      if (!isRecordHeader(buffer, here)) return 0;
      const payload = buffer.readUInt32LE(here + RECORD.payload);
      const sequence = buffer.readBigUInt64LE(here + RECORD.sequence);
      const kind = RECORD_KIND_NAMES[buffer[here + RECORD.kind]!];
      const address = readU53(buffer, here + RECORD.address);
      const length = readU53(buffer, here + RECORD.length);
      const size = RECORD.size + payload;
      if (buffer.readUInt32LE(here + RECORD.tag) !== tag) {
        this.#wrong(items, 'foreign', 'a record of another log');
        if (!keepGoing) return this.#end();
      } else if (kind === undefined || payload > MAX_PAYLOAD || (kind === 'data' && payload !== length)) {
        this.#wrong(items, 'damaged-header', 'the header contradicts itself');
        return this.#end();
      } else if (available < size) {
        if (!this.#ended) return size;
        this.#wrong(
          items,
          last ? 'torn-tail' : 'truncated',
          `${available} of the record's ${size} bytes are there`,
        );
        return this.#end();
      } else if (!isRecordIntact(buffer, here)) {
        this.#wrong(items, 'damaged-data', 'the checksum of the record is wrong');
        if (!keepGoing) return this.#end();
      } else if (this.#expected !== 0n && sequence !== this.#expected) {
        this.#wrong(items, 'gap', `record ${sequence} where ${this.#expected} was expected`);
        if (!keepGoing) return this.#end();
      } else {
        const flags = buffer[here + RECORD.flags]!;
        const record: LogRecord = {
          segment,
          offset: at,
          sequence,
          address,
          length,
          timeNs: buffer.readBigUInt64LE(here + RECORD.time),
          kind,
          fua: (flags & RecordFlag.fua) !== 0,
          noHole: (flags & RecordFlag.noHole) !== 0,
          payload,
        };
        items.push({ record, data: buffer.subarray(here + RECORD.data, here + size) });
      }
      this.#at = at + size;
      this.#expected = sequence + 1n;
    }
  }

  /** The record at `#at` is not what was written; its header can be believed. */
  #wrong(items: ScanItem[], kind: FindingKind, reason: string): void {
    const here = this.#at - this.#base;
    const sequence = this.#buffer.readBigUInt64LE(here + RECORD.sequence);
    const address = readU53(this.#buffer, here + RECORD.address);
    const length = readU53(this.#buffer, here + RECORD.length);
    const place = { segment: this.#options.segment, offset: this.#at, sequence, address, length };
    items.push({ finding: { kind, ...place, reason } });
  }

  #end(): undefined {
    this.#over = true;
  }

  /** Bytes that are no header stand at `#at`. */
  async #noHeader(): Promise<ScanItem> {
    const at = this.#at;
    const { segment, last, tag, keepGoing } = this.#options;
    if (last && (await isZeroToEnd(this.#fd, at))) {
      this.#end();
      return found('torn-tail', segment, at, 'only zero bytes follow');
    }
    const next = keepGoing ? await findHeader(this.#fd, at + 1, tag) : undefined;
    if (next === undefined) this.#end();
    else {
      this.#at = next;
      this.#expected = 0n;
    }
    return found('damaged-header', segment, at, 'the header of a record is damaged');
  }

  /** Makes `wanted` bytes from `#at` on available, if the file has them. */
  async #fill(wanted: number): Promise<void> {
    const keep = Math.max(0, this.#filled - (this.#at - this.#base));
    this.#buffer.copy(this.#buffer, 0, this.#filled - keep, this.#filled);
    this.#base = this.#at;
    this.#filled = keep;
    if (wanted > this.#buffer.length) {
      const larger = Buffer.allocUnsafe(Math.ceil(wanted / CHUNK) * CHUNK);
      this.#buffer.copy(larger, 0, 0, keep);
      this.#buffer = larger;
    }
    while (this.#filled < wanted) {
      const count = await readSome(
        this.#fd,
        this.#buffer,
        this.#filled,
        this.#buffer.length - this.#filled,
        this.#base + this.#filled,
      );
      if (count === 0) {
        this.#ended = true;
        return;
      }
      this.#filled += count;
    }
  }
}

export function found(
  kind: FindingKind,
  segment: number,
  offset: number,
  reason: string,
): { finding: Finding } {
  return { finding: { kind, segment, offset, reason } };
}

function chunkFor(fd: number, start: number): number {
  return Math.min(CHUNK, Math.max(MIN_CHUNK, fstatSync(fd).size - start));
}

async function isZeroToEnd(fd: number, from: number): Promise<boolean> {
  const buffer = Buffer.allocUnsafe(chunkFor(fd, from));
  for (let at = from; ; ) {
    const count = await readSome(fd, buffer, 0, buffer.length, at);
    if (count === 0) return true;
    for (let i = 0; i < count; i++) if (buffer[i] !== 0) return false;
    at += count;
  }
}

/** The next place from `from` on where an intact header of this log stands. */
async function findHeader(fd: number, from: number, tag: number): Promise<number | undefined> {
  const buffer = Buffer.allocUnsafe(CHUNK);
  for (let base = from; ; ) {
    let filled = 0;
    for (let n = 1; n > 0 && filled < CHUNK; filled += n)
      n = await readSome(fd, buffer, filled, CHUNK - filled, base + filled);
    if (filled < RECORD.size) return undefined;
    for (
      let at = buffer.indexOf('WLR1');
      at !== -1 && at + RECORD.size <= filled;
      at = buffer.indexOf('WLR1', at + 1)
    )
      if (isRecordHeader(buffer, at) && buffer.readUInt32LE(at + RECORD.tag) === tag) return base + at;
    base += filled - RECORD.size + 1;
    if (filled < CHUNK) return undefined;
  }
}

/** What is cached at once, else by the thread pool. */
export function readSome(
  fd: number,
  into: Buffer,
  start: number,
  length: number,
  position: number,
): Promise<number> | number {
  const now = readNow(fd, into, start, length, position);
  if (now > 0) return now;
  return new Promise((resolve, reject) =>
    read(fd, into, start, length, position, (error, count) => (error ? reject(error) : resolve(count))),
  );
}
