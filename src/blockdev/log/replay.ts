/** 805/905: reflecting what a write log says onto a device; and what is wrong with a log. */
import { closeSync, ftruncateSync, openSync, read, readdirSync, statSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { readNow } from 'block-io';
import type { Device } from '../device.ts';
import type { RecordKindName } from './format.ts';
import { LogError, RECORD, SEGMENT, segmentName, segmentNumbers } from './format.ts';
import type { Finding, LogRecord, ScanOptions } from './log-reader.ts';
import { LogReader } from './log-reader.ts';
import type { Piece } from './plan.ts';
import { planPieces } from './plan.ts';
import type { LogTail } from './write-log.ts';
import { bootId } from './write-log.ts';

export interface LogSummary {
  readonly directory: string;
  readonly diskId: string;
  readonly diskSize: bigint;
  readonly generation: string;
  readonly purpose: string;
  readonly segments: number;
  readonly records: number;
  /** Bytes of the disk that the records name. */
  readonly bytes: number;
  readonly firstSequence: bigint;
  /** Last intact record; firstSequence − 1 when there is none. */
  readonly lastSequence: bigint;
  readonly firstTimeNs?: bigint;
  readonly lastTimeNs?: bigint;
  readonly kinds: Readonly<Record<RecordKindName, number>>;
  /** Damage, in order of place. A torn tail is no damage. */
  readonly findings: readonly Finding[];
  readonly tornTail?: Finding;
}

/** Reads a whole log and tells what it holds and every place that is wrong. Throws LogError when there is no log at all. */
export async function verifyLog(directory: string): Promise<LogSummary> {
  const reader = await LogReader.open(directory);
  const kinds = { data: 0, zeroes: 0, trim: 0, flush: 0 };
  const findings: Finding[] = [];
  let tornTail: Finding | undefined;
  let records = 0;
  let bytes = 0;
  let first: LogRecord | undefined;
  let last: LogRecord | undefined;
  for await (const items of reader.batches({ keepGoing: true })) {
    for (const item of items) {
      if ('finding' in item) {
        if (item.finding.kind === 'torn-tail') tornTail = item.finding;
        else findings.push(item.finding);
        continue;
      }
      const { record } = item;
      records++;
      bytes += record.length;
      kinds[record.kind]++;
      first ??= record;
      last = record;
    }
  }
  const { header } = reader;
  return {
    directory,
    diskId: header.diskId,
    diskSize: header.diskSize,
    generation: header.generation.toString('hex'),
    purpose: header.purpose,
    segments: segmentNumbers(readdirSync(directory)).length,
    records,
    bytes,
    firstSequence: header.firstSequence,
    lastSequence: last?.sequence ?? header.firstSequence - 1n,
    ...(first === undefined ? {} : { firstTimeNs: first.timeNs }),
    ...(last === undefined ? {} : { lastTimeNs: last.timeNs }),
    kinds,
    findings,
    ...(tornTail === undefined ? {} : { tornTail }),
  };
}

export interface ReplayOptions {
  /** Last record to reflect. */
  readonly toSequence?: bigint;
  /** Reflect records up to this time (ns); the first later one ends the replay, whatever follows it. */
  readonly toTimeNs?: bigint;
  readonly generation?: Buffer;
  readonly diskId?: string;
  /** Replay a log whose first records were removed: `target` must hold them. Default false: LogError `partial`. */
  readonly partial?: boolean;
}

export interface ReplayResult {
  readonly records: number;
  /** Bytes that the records named, and bytes put on the target. */
  readonly bytes: number;
  readonly written: number;
  readonly lastSequence: bigint;
}

/**
 * Reflects a log onto `target` and flushes it. Throws LogError `damaged` before anything was written when a place up to the
 * goal is wrong, `foreign` for another disk's log or size. A torn tail ends the log.
 */
export async function replayLog(
  directory: string,
  target: Device,
  options: ReplayOptions = {},
): Promise<ReplayResult> {
  const { toSequence, toTimeNs, partial = false, ...expected } = options;
  const reader = await LogReader.open(directory, expected);
  const { firstSequence } = reader.header;
  if (firstSequence > 1n && !partial)
    throw new LogError(
      'partial',
      `${directory} begins with record ${firstSequence}: earlier ones were removed`,
      {
        remedy:
          'replay it only onto an image that holds everything before that record, and say so: --partial',
        values: { firstSequence },
      },
    );
  if (reader.header.diskSize !== target.size)
    throw new LogError(
      'foreign',
      `${directory} is the log of a disk of ${reader.header.diskSize} bytes, the target has ${target.size}`,
    );
  const scan = toSequence === undefined ? {} : { until: toSequence + 1n };
  const records = await collect(reader, scan, toTimeNs);
  const written = await reflect(reader, records, target);
  await target.flush();
  return {
    records: records.length,
    bytes: records.reduce((sum, record) => sum + record.length, 0),
    written,
    lastSequence: records.at(-1)?.sequence ?? reader.header.firstSequence - 1n,
  };
}

/** Verified records of a stretch. Throws LogError `damaged` at the first place that is wrong; a torn tail ends it. */
export async function collect(
  reader: LogReader,
  options: ScanOptions,
  toTimeNs?: bigint,
): Promise<LogRecord[]> {
  const records: LogRecord[] = [];
  for await (const items of reader.batches(options)) {
    for (const item of items) {
      if ('finding' in item) {
        if (item.finding.kind === 'torn-tail') return records;
        throw damaged(reader.directory, item.finding);
      }
      if (toTimeNs !== undefined && item.record.timeNs > toTimeNs) return records;
      records.push(item.record);
    }
  }
  return records;
}

export function damaged(directory: string, finding: Finding): LogError {
  const path = join(directory, segmentName(finding.segment));
  return new LogError('damaged', `${path} is damaged at byte ${finding.offset}: ${finding.reason}`, {
    remedy: 'nothing behind that place is replayed; copy the disk anew, or replay up to the record before it',
    values: { ...finding },
  });
}

/** Stretches on their way to the target at once. */
const REFLECT_DEPTH = 4;
/** Largest stretch written at once. */
const REFLECT_BYTES = 256 * 1024;

/** So much is written before the target is told that it may begin to make it durable. */
const WRITE_BACK_BYTES = 16 * 1024 * 1024;

/** A stretch of the disk to write at once: neighbouring pieces of data, or one of zeroes. */
interface Stretch {
  readonly start: number;
  readonly end: number;
  readonly pieces: readonly Piece<LogRecord>[];
}

/** Neighbouring pieces of data are put together, long ones taken apart. */
function* stretchesOf(pieces: readonly Piece<LogRecord>[]): Generator<Stretch> {
  let run: Piece<LogRecord>[] = [];
  const taken = (): Stretch => {
    const stretch = { start: run[0]!.start, end: run.at(-1)!.end, pieces: run };
    run = [];
    return stretch;
  };
  for (const piece of pieces) {
    const last = run.at(-1);
    if (last !== undefined && (last.end !== piece.start || piece.from.kind !== 'data')) yield taken();
    if (piece.from.kind !== 'data') {
      yield { ...piece, pieces: [piece] };
      continue;
    }
    for (let { start } = piece; start < piece.end; ) {
      const room = REFLECT_BYTES - (run.length === 0 ? 0 : start - run[0]!.start);
      const end = Math.min(piece.end, start + room);
      run.push({ start, end, from: piece.from });
      start = end;
      if (end - run[0]!.start >= REFLECT_BYTES) yield taken();
    }
  }
  if (run.length > 0) yield taken();
}

/** Puts the newest bytes of `records` (in order of sequence) on the target; returns bytes written. Does not flush. */
export async function reflect(
  reader: LogReader,
  records: readonly LogRecord[],
  target: Device,
): Promise<number> {
  const files = new Map<number, number>();
  const stretches = stretchesOf(planPieces(records));
  let written = 0;
  let advisedTo = 0;
  const worker = async () => {
    const buffer = Buffer.allocUnsafe(REFLECT_BYTES);
    for (let turn = 1; ; turn++) {
      const { value: stretch, done } = stretches.next();
      if (done === true) return;
      const { start, end, pieces } = stretch;
      const { from } = pieces[0]!;
      if (from.kind !== 'data') {
        await target.writeZeroes(BigInt(start), BigInt(end - start), { noHole: from.noHole });
      } else {
        const data = buffer.subarray(0, end - start);
        for (const piece of pieces) {
          const part = data.subarray(piece.start - start, piece.end - start);
          const position = piece.from.offset + RECORD.data + piece.start - piece.from.address;
          const waiting = readWhole(fileOf(files, reader, piece.from.segment), part, position);
          if (waiting !== undefined) await waiting;
        }
        await target.writeAt(data, BigInt(start));
      }
      written += end - start;
      if (end - advisedTo >= WRITE_BACK_BYTES) {
        target.startWriteBack?.(BigInt(advisedTo), BigInt(end - advisedTo));
        advisedTo = end;
      }
      // Cached reads and small writes never wait: let others have their turn.
      if (turn % 16 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
  };
  try {
    const outcomes = await Promise.allSettled(Array.from({ length: REFLECT_DEPTH }, worker));
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
  } finally {
    for (const fd of files.values()) closeSync(fd);
  }
  return written;
}

function fileOf(files: Map<number, number>, reader: LogReader, segment: number): number {
  let fd = files.get(segment);
  if (fd === undefined) {
    fd = openSync(join(reader.directory, segmentName(segment)), 'r');
    files.set(segment, fd);
  }
  return fd;
}

/** Reads exactly `target`; undefined when it was cached and is done. */
function readWhole(fd: number, target: Buffer, position: number): Promise<void> | undefined {
  if (readNow(fd, target, 0, target.length, position) === target.length) return undefined;
  return new Promise((resolve, reject) => {
    let done = 0;
    const next = () =>
      read(fd, target, done, target.length - done, position + done, (error, count) => {
        if (error) return reject(error);
        if (count === 0) return reject(new LogError('damaged', 'a segment became shorter while it was read'));
        done += count;
        if (done === target.length) resolve();
        else next();
      });
    next();
  });
}

export interface Recovery {
  readonly tail: LogTail;
  /** A torn tail that was cut off. */
  readonly cut?: Finding;
  /** Damage: the log must not be gone on with. */
  readonly damage?: Finding;
  /** The host was started anew since: what was not flushed may be on the disk and not in the log, or the other way. */
  readonly otherBoot: boolean;
  /** The last records; their writes may or may not have reached the disk. */
  readonly lastRecords: readonly LogRecord[];
}

/** Opens the log of a writer that is gone, cuts a torn tail off, and tells where it goes on. */
export async function recoverLog(
  directory: string,
  expected: { readonly generation?: Buffer; readonly diskId?: string } = {},
  keepLast = 4096,
): Promise<Recovery> {
  const reader = await LogReader.open(directory, expected);
  let damage: Finding | undefined;
  let cut: Finding | undefined;
  let lastRecords: LogRecord[] = [];
  let last: LogRecord | undefined;
  for await (const items of reader.batches()) {
    for (const item of items) {
      if ('record' in item) {
        last = item.record;
        lastRecords.push(last);
      } else if (item.finding.kind === 'torn-tail') cut = item.finding;
      else damage = item.finding;
    }
    if (lastRecords.length >= 2 * keepLast) lastRecords = lastRecords.slice(-keepLast);
  }
  if (cut !== undefined) cutTail(directory, cut);
  const numbers = segmentNumbers(readdirSync(directory));
  const segment = numbers.at(-1) ?? 1;
  const offset =
    last !== undefined && last.segment === segment ? last.offset + RECORD.size + last.payload : SEGMENT.size;
  return {
    tail: {
      header: reader.header,
      segment,
      offset,
      nextSequence: (last?.sequence ?? reader.header.firstSequence - 1n) + 1n,
      bytes: numbers.reduce((sum, n) => sum + statSync(join(directory, segmentName(n))).size, 0),
    },
    ...(cut === undefined ? {} : { cut }),
    ...(damage === undefined ? {} : { damage }),
    otherBoot: reader.header.boot !== bootId(),
    lastRecords: lastRecords.slice(-keepLast),
  };
}

function cutTail(directory: string, cut: Finding): void {
  const path = join(directory, segmentName(cut.segment));
  if (cut.offset < SEGMENT.size) {
    unlinkSync(path);
    return;
  }
  const fd = openSync(path, 'r+');
  try {
    ftruncateSync(fd, cut.offset);
  } finally {
    closeSync(fd);
  }
}
