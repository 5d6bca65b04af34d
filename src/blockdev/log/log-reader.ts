/**
 * Reads a write log, record by record, and says where it is not what was written. A reader never hands out a record whose
 * checksums, sequence or generation are wrong.
 *
 * A log whose writer was killed may end inside a record: `torn-tail`, nothing was acknowledged of it. Anything else that is
 * wrong, the last record included when all its bytes are there, is damage.
 */
import { close, open, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf } from '../../common/index.ts';
import type { SegmentHeader } from './format.ts';
import {
  isRecordHeader,
  isRecordIntact,
  LogError,
  parseSegmentHeader,
  RECORD,
  SEGMENT,
  segmentName,
  segmentNumbers,
} from './format.ts';
import type { Finding, LogRecord, ScanItem } from './segment-scan.ts';
import { found, readSome, SegmentScan } from './segment-scan.ts';
import type { LogPosition } from './write-log.ts';

export type { Finding, FindingKind, LogRecord, ScanItem } from './segment-scan.ts';
export { FINDING_KINDS } from './segment-scan.ts';

export interface ScanOptions {
  /** Where to begin; default: the first record of the first segment. */
  readonly from?: LogPosition;
  /** Stop before the record with this sequence. */
  readonly until?: bigint;
  /** Go on behind a damaged place, looking for the next intact record. */
  readonly keepGoing?: boolean;
}

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
    for await (const items of this.batches(options)) yield* items;
  }

  /** As `scan`, as many at a time as stand in memory; the data of a batch is lent until the next one. */
  async *batches(options: ScanOptions = {}): AsyncGenerator<ScanItem[]> {
    const { from, until, keepGoing = false } = options;
    let expected = from?.sequence ?? this.header.firstSequence;
    const tag = this.header.generation.readUInt32LE(0);
    const numbers = from === undefined ? this.#numbers : this.#numbers.filter((n) => n >= from.segment);
    for (const [index, number] of numbers.entries()) {
      const last = number === this.#numbers.at(-1);
      const previous = numbers[index - 1];
      if (previous !== undefined && number !== previous + 1) {
        yield [found('missing-segment', previous + 1, 0, `${segmentName(previous + 1)} is not there`)];
        if (!keepGoing) return;
      }
      const start = from !== undefined && number === from.segment ? from.offset : SEGMENT.size;
      const path = join(this.directory, segmentName(number));
      const wrong = await this.#checkSegment(path, number, last, index > 0 ? expected : undefined);
      if (wrong !== undefined) {
        yield [{ finding: wrong }];
        if (!keepGoing || wrong.kind === 'torn-tail') return;
      }
      const fd = await openFile(path);
      try {
        const scan = new SegmentScan(fd, { segment: number, last, start, expected, tag, keepGoing });
        for (let items = await scan.next(); items.length > 0; items = await scan.next()) {
          // Nothing behind the last record that is wanted is looked at: it may be damaged.
          const end = until === undefined ? -1 : endBefore(items, until);
          const taken = end === -1 ? items : items.slice(0, end);
          const newest = taken.findLast((item) => 'record' in item);
          if (newest !== undefined) expected = newest.record.sequence + 1n;
          if (taken.length > 0) yield taken;
          if (end !== -1 || (until !== undefined && expected >= until)) return;
          if (!keepGoing && taken.some((item) => 'finding' in item)) return;
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

/** Number of items up to the record before `until`; -1 when more may follow. */
function endBefore(items: readonly ScanItem[], until: bigint): number {
  const at = items.findIndex((item) => 'record' in item && item.record.sequence + 1n >= until);
  const item = items[at];
  if (item === undefined || !('record' in item)) return -1;
  return item.record.sequence >= until ? at : at + 1;
}

function openFile(path: string): Promise<number> {
  return new Promise((resolve, reject) =>
    open(path, 'r', (error, fd) => (error ? reject(error) : resolve(fd))),
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
