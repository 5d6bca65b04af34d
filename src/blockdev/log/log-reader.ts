/**
 * Reads a write log, record by record, and says where it is not what was written. A reader never hands out a record whose
 * checksums, sequence or generation are wrong.
 *
 * A log whose writer was killed may end inside a record: `torn-tail`, nothing was acknowledged of it. Anything else that is
 * wrong, the last record included when all its bytes are there, is damage.
 */
import { close, fstatSync, open, read, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf } from '../../common/index.ts';
import type { RecordKindName, SegmentHeader } from './format.ts';
import {
  isRecordHeader,
  isRecordIntact,
  LogError,
  MAX_PAYLOAD,
  parseSegmentHeader,
  RECORD,
  RECORD_KIND_NAMES,
  RecordFlag,
  readU53,
  SEGMENT,
  segmentName,
  segmentNumbers,
} from './format.ts';
import type { LogPosition } from './write-log.ts';

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

export interface ScanOptions {
  /** Where to begin; default: the first record of the first segment. */
  readonly from?: LogPosition;
  /** Stop before the record with this sequence. */
  readonly until?: bigint;
  /** Go on behind a damaged place, looking for the next intact record. */
  readonly keepGoing?: boolean;
}

export type ScanItem = { readonly record: LogRecord; readonly data: Buffer } | { readonly finding: Finding };

const CHUNK = 1024 * 1024;
const MIN_CHUNK = 4096;

export class LogReader {
  readonly directory: string;
  /** Header of the first segment. */
  readonly header: SegmentHeader;
  readonly #numbers: readonly number[];

  private constructor(directory: string, header: SegmentHeader, numbers: readonly number[]) {
    this.directory = directory;
    this.header = header;
    this.#numbers = numbers;
  }

  /** Throws LogError: `no-log`, `damaged` (first segment header), `foreign` (other generation or disk than expected). */
  static async open(
    directory: string,
    expected: { readonly generation?: Buffer; readonly diskId?: string } = {},
  ): Promise<LogReader> {
    let names: string[];
    try {
      names = readdirSync(directory);
    } catch (error) {
      throw new LogError('no-log', `cannot read the write log at ${directory}: ${messageOf(error)}`, {
        cause: error,
      });
    }
    const numbers = segmentNumbers(names);
    const first = numbers[0];
    if (first === undefined)
      throw new LogError('no-log', `${directory} holds no segment of a write log`, {
        remedy: 'give the directory that holds 00000001.wlog and the following',
      });
    const header = parseSegmentHeader(await readRange(join(directory, segmentName(first)), 0, SEGMENT.size));
    if ('reason' in header)
      throw new LogError('damaged', `${join(directory, segmentName(first))}: ${header.reason}`, {
        values: { segment: first, offset: 0 },
      });
    const { generation, diskId } = expected;
    if (generation !== undefined && !generation.equals(header.generation))
      throw new LogError(
        'foreign',
        `${directory} is of generation ${header.generation.toString('hex')}, not ${generation.toString('hex')}`,
      );
    if (diskId !== undefined && diskId !== header.diskId)
      throw new LogError('foreign', `${directory} is the log of disk ${header.diskId}, not ${diskId}`);
    return new LogReader(directory, header, numbers);
  }

  /** Records in order. `data` is lent until the next step. Ends at the first finding unless told to keep going. */
  async *scan(options: ScanOptions = {}): AsyncGenerator<ScanItem> {
    const from = options.from;
    let expected = from?.sequence ?? this.header.firstSequence;
    const numbers = from === undefined ? this.#numbers : this.#numbers.filter((n) => n >= from.segment);
    for (const [index, number] of numbers.entries()) {
      const last = number === this.#numbers.at(-1);
      const previous = numbers[index - 1];
      if (previous !== undefined && number !== previous + 1) {
        yield found('missing-segment', previous + 1, 0, `${segmentName(previous + 1)} is not there`);
        if (options.keepGoing !== true) return;
      }
      const start = from !== undefined && number === from.segment ? from.offset : SEGMENT.size;
      const path = join(this.directory, segmentName(number));
      const wrong = await this.#checkSegment(path, number, last, index > 0 ? expected : undefined);
      if (wrong !== undefined) {
        yield { finding: wrong };
        if (options.keepGoing !== true || wrong.kind === 'torn-tail') return;
      }
      const fd = await openFile(path);
      try {
        for await (const item of scanSegment(
          fd,
          number,
          last,
          start,
          this.header.generation,
          expected,
          options,
        )) {
          if ('record' in item) {
            if (options.until !== undefined && item.record.sequence >= options.until) return;
            expected = item.record.sequence + 1n;
            yield item;
            if (options.until !== undefined && expected >= options.until) return;
          } else {
            yield item;
            if (options.keepGoing !== true) return;
          }
        }
      } finally {
        close(fd);
      }
    }
  }

  /** Intact records in order, up to the first finding; whoever must know about that uses `scan` or `verifyLog`. */
  async *records(options: ScanOptions = {}): AsyncGenerator<LogRecord> {
    for await (const item of this.scan(options)) if ('record' in item) yield item.record;
  }

  /** The data of a record, its checksum verified. Throws LogError `damaged`. */
  async readData(record: LogRecord): Promise<Buffer> {
    const path = join(this.directory, segmentName(record.segment));
    const bytes = await readRange(path, record.offset, RECORD.size + record.payload);
    if (
      bytes.length < RECORD.size + record.payload ||
      !isRecordHeader(bytes, 0) ||
      bytes.readUInt32LE(RECORD.payload) !== record.payload ||
      !isRecordIntact(bytes, 0)
    )
      throw new LogError('damaged', `${path}: the record at byte ${record.offset} is damaged`, {
        values: { segment: record.segment, offset: record.offset, sequence: record.sequence },
      });
    return bytes.subarray(RECORD.data);
  }

  async #checkSegment(
    path: string,
    number: number,
    last: boolean,
    expected: bigint | undefined,
  ): Promise<Finding | undefined> {
    const bytes = await readRange(path, 0, SEGMENT.size);
    if (bytes.length < SEGMENT.size && last)
      return { kind: 'torn-tail', segment: number, offset: 0, reason: 'the segment was being begun' };
    const header = parseSegmentHeader(bytes);
    const at = { segment: number, offset: 0 };
    if ('reason' in header) return { kind: 'segment-header', ...at, reason: header.reason };
    if (!header.generation.equals(this.header.generation))
      return {
        kind: 'foreign',
        ...at,
        reason: `segment of generation ${header.generation.toString('hex')}`,
      };
    if (header.number !== number)
      return { kind: 'segment-header', ...at, reason: `it says that it is segment ${header.number}` };
    if (expected !== undefined && header.firstSequence !== expected)
      return {
        kind: 'gap',
        ...at,
        reason: `it begins with record ${header.firstSequence}, expected ${expected}`,
      };
    return undefined;
  }
}

function found(kind: FindingKind, segment: number, offset: number, reason: string): { finding: Finding } {
  return { finding: { kind, segment, offset, reason } };
}

async function* scanSegment(
  fd: number,
  segment: number,
  last: boolean,
  start: number,
  generation: Buffer,
  firstExpected: bigint,
  options: ScanOptions,
): AsyncGenerator<ScanItem> {
  const tag = generation.readUInt32LE(0);
  let expected = firstExpected;
  // A short segment does not need a long buffer; one that grows meanwhile is read in more steps.
  let buffer = Buffer.allocUnsafe(chunkFor(fd, start));
  /** Bytes [base, base + filled) of the file stand in `buffer`. */
  let base = start;
  let filled = 0;
  let at = start;
  let ended = false;

  /** Makes `wanted` bytes from `at` available if the file has them; tells how many there are. */
  const need = async (wanted: number): Promise<number> => {
    if (at - base + wanted > filled && !ended) {
      if (at > base) {
        const keep = Math.max(0, filled - (at - base));
        buffer.copy(buffer, 0, filled - keep, filled);
        base = at;
        filled = keep;
      }
      if (wanted > buffer.length) {
        const larger = Buffer.allocUnsafe(Math.ceil(wanted / CHUNK) * CHUNK);
        buffer.copy(larger, 0, 0, filled);
        buffer = larger;
      }
      while (filled < wanted) {
        const count = await readSome(fd, buffer, filled, buffer.length - filled, base + filled);
        if (count === 0) {
          ended = true;
          break;
        }
        filled += count;
      }
    }
    return filled - (at - base);
  };

  while (true) {
    const available = await need(RECORD.size);
    if (available === 0) return;
    const here = at - base;
    if (available < RECORD.size) {
      yield found(last ? 'torn-tail' : 'truncated', segment, at, `${available} bytes of a record's header`);
      return;
    }
    if (!isRecordHeader(buffer, here)) {
      if (last && (await isZeroToEnd(fd, at))) {
        yield found('torn-tail', segment, at, 'only zero bytes follow');
        return;
      }
      yield found('damaged-header', segment, at, 'the header of a record is damaged');
      if (options.keepGoing !== true) return;
      const next = await findHeader(fd, at + 1, tag);
      if (next === undefined) return;
      at = next;
      expected = 0n;
      continue;
    }
    const payload = buffer.readUInt32LE(here + RECORD.payload);
    const sequence = buffer.readBigUInt64LE(here + RECORD.sequence);
    const kind = RECORD_KIND_NAMES[buffer[here + RECORD.kind]!];
    const place = {
      segment,
      offset: at,
      sequence,
      address: readU53(buffer, here + RECORD.address),
      length: readU53(buffer, here + RECORD.length),
    };
    const size = RECORD.size + payload;
    if (buffer.readUInt32LE(here + RECORD.tag) !== tag) {
      yield { finding: { kind: 'foreign', ...place, reason: 'a record of another log' } };
      if (options.keepGoing !== true) return;
    } else if (kind === undefined || payload > MAX_PAYLOAD || (kind === 'data' && payload !== place.length)) {
      yield { finding: { kind: 'damaged-header', ...place, reason: 'the header contradicts itself' } };
      return;
    } else if ((await need(size)) < size) {
      const reason = `${filled - (at - base)} of the record's ${size} bytes are there`;
      yield { finding: { kind: last ? 'torn-tail' : 'truncated', ...place, reason } };
      return;
    } else if (!isRecordIntact(buffer, at - base)) {
      yield { finding: { kind: 'damaged-data', ...place, reason: 'the checksum of the record is wrong' } };
      if (options.keepGoing !== true) return;
    } else if (expected !== 0n && sequence !== expected) {
      yield {
        finding: { kind: 'gap', ...place, reason: `record ${sequence} where ${expected} was expected` },
      };
      if (options.keepGoing !== true) return;
    } else {
      const h = at - base;
      const flags = buffer[h + RECORD.flags]!;
      yield {
        record: {
          ...place,
          timeNs: buffer.readBigUInt64LE(h + RECORD.time),
          kind,
          fua: (flags & RecordFlag.fua) !== 0,
          noHole: (flags & RecordFlag.noHole) !== 0,
          payload,
        },
        data: buffer.subarray(h + RECORD.data, h + size),
      };
    }
    at += size;
    expected = sequence + 1n;
  }
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

function openFile(path: string): Promise<number> {
  return new Promise((resolve, reject) =>
    open(path, 'r', (error, fd) => (error ? reject(error) : resolve(fd))),
  );
}

function readSome(
  fd: number,
  into: Buffer,
  start: number,
  length: number,
  position: number,
): Promise<number> {
  return new Promise((resolve, reject) =>
    read(fd, into, start, length, position, (error, count) => (error ? reject(error) : resolve(count))),
  );
}

async function readRange(path: string, offset: number, length: number): Promise<Buffer> {
  const fd = await openFile(path);
  try {
    const out = Buffer.alloc(Math.min(length, Math.max(0, statSync(path).size - offset)));
    let done = 0;
    while (done < out.length) {
      const count = await readSome(fd, out, done, out.length - done, offset + done);
      if (count === 0) break;
      done += count;
    }
    return out.subarray(0, done);
  } finally {
    close(fd);
  }
}
