/**
 * Writes a write log. One writer per directory; it is the sink of a write trap.
 *
 * Order: a record is in the file before the write it describes goes to the disk (the trap waits for `record`). Both stand in
 * the page cache then, so that kill -9 of this process loses neither; `flush` makes the log durable together with the disk.
 * Small records are written at once on the event loop; while a batch is on its way, records gather and go out as the next one
 * (group commit).
 *
 * When the log cannot be kept (cap reached, disk full, I/O error) no write of the guest fails: the log spills. From then on
 * only the place of each write is remembered in a dirty map; the data is on the source disk. `spilled` says why.
 */
import {
  closeSync,
  fdatasync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  unlinkSync,
  writeSync,
  writev,
  writevSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import type { Clock } from '../../common/index.ts';
import { messageOf, systemClock, systemRandom } from '../../common/index.ts';
import type { WriteZeroesOptions, WrittenExtent } from '../device.ts';
import type { WriteKind, WriteSink } from '../filter/index.ts';
import { Coalesced, InlineBudget, syncDirectory } from '../store/index.ts';
import { DirtyMap } from './dirty-map.ts';
import type { LogPurposeName, RecordKindName, SegmentHeader } from './format.ts';
import {
  emitRecordHeader,
  emitSegmentHeader,
  LogError,
  RECORD,
  RecordFlag,
  RecordKind,
  SEGMENT,
  segmentName,
  segmentNumbers,
} from './format.ts';
import { WriteBehind } from './write-behind.ts';

export interface WriteLogOptions {
  readonly diskId: string;
  readonly diskSize: bigint;
  readonly purpose: LogPurposeName;
  /** 16 bytes; logs of one group share it. Default: drawn. */
  readonly generation?: Buffer;
  /** A new segment is begun after so many bytes; default 64 MiB. */
  readonly segmentBytes?: number;
  /** The log never takes more; beyond it spills. Default: no limit. */
  readonly capBytes?: number;
  readonly clock?: Clock;
  /** Called once when the log spills. */
  readonly onSpill?: (reason: string) => void;
}

/** Where a log goes on: what `recover` found. */
export interface LogTail {
  readonly header: SegmentHeader;
  readonly segment: number;
  /** Where the next record goes in that segment. */
  readonly offset: number;
  readonly nextSequence: bigint;
  readonly bytes: number;
}

/** A place in the log. */
export interface LogPosition {
  readonly segment: number;
  readonly offset: number;
  /** Sequence of the record that stands there or will. */
  readonly sequence: bigint;
}

interface Segment {
  readonly number: number;
  readonly fd: number;
  readonly firstSequence: bigint;
  tail: number;
  /** Writes so far, and how many of them are durable. */
  writes: number;
  synced: number;
}

/** Records up to this size are written on the event loop when no batch is under way. */
const INLINE_BYTES = 128 * 1024 + RECORD.size;
const BATCH_RECORDS = 256;
const BATCH_BYTES = 16 * 1024 * 1024;

/** First 8 bytes of the host's boot id. */
export function bootId(): bigint {
  try {
    const text = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').replaceAll('-', '').trim();
    return BigInt(`0x${text.slice(0, 16)}`);
  } catch {
    return 0n;
  }
}

export class WriteLog implements WriteSink {
  readonly directory: string;
  readonly generation: Buffer;
  readonly diskId: string;
  readonly diskSize: bigint;
  readonly purpose: LogPurposeName;
  readonly #tag: number;
  readonly #clock: Clock;
  readonly #segmentBytes: number;
  readonly #capBytes: number;
  readonly #onSpill: ((reason: string) => void) | undefined;
  readonly #budget = new InlineBudget();
  readonly #behind: WriteBehind;
  readonly #header = Buffer.alloc(RECORD.size);
  #segments: Segment[] = [];
  #nextSequence = 1n;
  #bytes = 0;
  #logged = 0;
  #pending: Uint8Array[] = [];
  #pendingBytes = 0;
  #batch: Promise<void> | undefined;
  #nextBatch: Promise<void> | undefined;
  #dirty: DirtyMap | undefined;
  /** Everything told to this log since it began; undefined when a former process wrote to it and nobody said what. */
  #written: DirtyMap | undefined;
  #spilled: string | undefined;
  #closed = false;
  #gathering = false;
  #directorySynced = false;
  /** Places of records that are pending or on their way: they become dirty when their batch fails. */
  #unwritten: { readonly address: number; readonly length: number }[] = [];
  readonly #syncs = new Coalesced(() => this.#sync());

  private constructor(directory: string, options: WriteLogOptions) {
    this.directory = directory;
    this.generation = options.generation ?? Buffer.from(systemRandom.fill(new Uint8Array(16)));
    this.diskId = options.diskId;
    this.diskSize = options.diskSize;
    this.purpose = options.purpose;
    this.#tag = this.generation.readUInt32LE(0);
    this.#clock = options.clock ?? systemClock;
    this.#segmentBytes = options.segmentBytes ?? 64 * 1024 * 1024;
    this.#capBytes = options.capBytes ?? Number.MAX_SAFE_INTEGER;
    this.#onSpill = options.onSpill;
    this.#behind = new WriteBehind(directory);
  }

  /** Begins a log in `directory` (made when absent). Throws LogError `log-exists`; a log disk that is full spills at once. */
  static create(directory: string, options: WriteLogOptions): WriteLog {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    if (segmentNumbers(readdirSync(directory)).length > 0)
      throw new LogError('log-exists', `${directory} holds a write log already`, {
        remedy: 'end or cancel what it belongs to, or choose another directory',
        values: { directory },
      });
    const log = new WriteLog(directory, options);
    log.#written = new DirtyMap(Number(options.diskSize));
    try {
      log.#beginSegment(1);
    } catch (error) {
      log.#spill(`cannot begin a segment: ${messageOf(error)}`);
    }
    return log;
  }

  /** Goes on with a log that a former process left; `tail` comes from `recoverLog`, which has cut a torn record off. */
  static resume(directory: string, tail: LogTail, options: WriteLogOptions): WriteLog {
    const log = new WriteLog(directory, { ...options, generation: tail.header.generation });
    const fd = openSync(join(directory, segmentName(tail.segment)), 'r+');
    log.#segments = [
      {
        number: tail.segment,
        fd,
        firstSequence: tail.header.firstSequence,
        tail: tail.offset,
        writes: 1,
        synced: 0,
      },
    ];
    log.#nextSequence = tail.nextSequence;
    log.#bytes = tail.bytes;
    log.#logged = tail.bytes;
    return log;
  }

  /** Sequence of the last record handed in; 0 when there is none. */
  get lastSequence(): bigint {
    return this.#nextSequence - 1n;
  }

  /** Bytes that the log takes. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Bytes of writes told to this log since it was begun or resumed, spilled ones included. */
  get logged(): number {
    return this.#logged;
  }

  /** Why the log is no longer kept, if so. */
  get spilled(): string | undefined {
    return this.#spilled;
  }

  /** Bytes of the disk that only the dirty map knows. */
  get dirtyBytes(): number {
    return this.#dirty?.bytes ?? 0;
  }

  record(
    kind: WriteKind,
    address: number,
    length: number,
    data: Uint8Array | undefined,
    options: WriteZeroesOptions | undefined,
  ): Promise<void> | undefined {
    let flags = 0;
    if (options !== undefined) {
      if (options.fua === true) flags |= RecordFlag.fua;
      if (options.noHole === true) flags |= RecordFlag.noHole;
    }
    return this.#append(kind, flags, address, length, data);
  }

  recordNow(kind: WriteKind, address: number, length: number, data: Uint8Array): boolean {
    if (this.#spilled === undefined) {
      if (this.#batch !== undefined || data.length + RECORD.size > INLINE_BYTES) return false;
      if (!this.#budget.allows(performance.now())) return false;
    }
    return this.#append(kind, 0, address, length, data) === undefined;
  }

  landed(address: number, length: number, ok: boolean): void {
    // A failed write leaves unknown bytes: the disk is asked at replay. A spilled one must be read after it has landed.
    if (!ok || this.#spilled !== undefined) this.#markDirty(address, length);
  }

  /** Where the next record will stand, once everything handed in is in the file. */
  async position(): Promise<LogPosition> {
    // No await may stand between the last look at the batch and the answer: a record could begin in between.
    while (this.#batch !== undefined) await (this.#nextBatch ?? this.#batch);
    const segment = this.#segments.at(-1);
    return {
      segment: segment?.number ?? 0,
      offset: segment?.tail ?? 0,
      sequence: this.#nextSequence,
    };
  }

  /** Writes a flush mark and makes everything before it durable. */
  async flush(): Promise<void> {
    if (this.#spilled !== undefined || this.#closed) return;
    await this.#append('flush', 0, 0, 0, undefined);
    await this.#syncs.request();
  }

  /** After `resume`, before the first write: what the records before it wrote, so that `writtenSince` can tell. */
  async knowWritten(
    before: AsyncIterable<{ readonly address: number; readonly length: number }>,
  ): Promise<void> {
    const map = new DirtyMap(Number(this.diskSize));
    for await (const { address, length } of before) map.mark(address, length);
    this.#written = map;
  }

  /** Writes before this log began are not known: everything counts as written. */
  forgetWritten(): void {
    this.#written = undefined;
  }

  /** What was written since the log began, in steps of 64 KiB; everything, where that is not known. */
  writtenSince(offset: bigint, length: bigint): WrittenExtent[] {
    return this.#written?.extents(offset, length) ?? [{ offset, length, written: true }];
  }

  /** Marks a range as written without its data: it will be read from the source disk. */
  markDirty(address: number, length: number): void {
    this.#markDirty(address, length);
  }

  /** Takes what the dirty map holds; the map is empty afterwards. */
  takeDirty(): { readonly start: number; readonly end: number }[] {
    const ranges = this.#dirty?.ranges() ?? [];
    this.#dirty = undefined;
    return ranges;
  }

  /** Removes segments whose every record stands before `position`. */
  dropBefore(position: LogPosition): void {
    for (const number of segmentNumbers(readdirSync(this.directory))) {
      if (number >= position.segment) return;
      const open = this.#segments.find((segment) => segment.number === number);
      if (open !== undefined && open.synced !== open.writes) return;
      const path = join(this.directory, segmentName(number));
      const fd = openSync(path, 'r');
      this.#bytes -= fstatSync(fd).size;
      closeSync(fd);
      unlinkSync(path);
      this.#segments = this.#segments.filter((segment) => segment !== open);
      if (open !== undefined) closeSync(open.fd);
    }
  }

  /** Ends the log; what was handed in is durable, unless it spilled. */
  async close(): Promise<void> {
    if (this.#closed) return;
    while (this.#batch !== undefined) await (this.#nextBatch ?? this.#batch);
    this.#closed = true;
    try {
      await this.#syncs.idle();
      if (this.#spilled === undefined) await this.#sync();
    } finally {
      for (const segment of this.#segments) closeSync(segment.fd);
      this.#segments = [];
    }
  }

  #append(
    kind: RecordKindName,
    flags: number,
    address: number,
    length: number,
    data: Uint8Array | undefined,
  ): Promise<void> | undefined {
    const sequence = this.#nextSequence++;
    this.#logged += length;
    this.#written?.mark(address, length);
    const size = RECORD.size + (data?.length ?? 0);
    if (this.#spilled === undefined && this.#bytes + this.#pendingBytes + size > this.#capBytes)
      this.#spill(`it reached its cap of ${this.#capBytes} bytes`);
    if (this.#spilled !== undefined) {
      this.#markDirty(address, length);
      return undefined;
    }
    const idle = this.#batch === undefined;
    const startedMs = performance.now();
    const inline = idle && size <= INLINE_BYTES && this.#budget.allows(startedMs);
    const header = inline ? this.#header : Buffer.allocUnsafe(RECORD.size);
    const code = RecordKind[kind];
    const timeNs = this.#clock.wallNs();
    emitRecordHeader(header, 0, code, flags, sequence, timeNs, address, length, this.#tag, data);
    if (inline) {
      try {
        this.#rotate(sequence);
        const segment = this.#segments.at(-1)!;
        const done = writevSync(segment.fd, data === undefined ? [header] : [header, data], segment.tail);
        if (done < size) finishShort(segment.fd, header, data, done, segment.tail);
        segment.tail += size;
        segment.writes++;
        this.#bytes += size;
        this.#behind.wrote(segment.number, segment.tail);
      } catch (error) {
        this.#spill(messageOf(error));
        this.#markDirty(address, length);
        return undefined;
      }
      this.#budget.took(startedMs, performance.now());
      return undefined;
    }
    this.#pending.push(header);
    if (data !== undefined) this.#pending.push(data);
    this.#pendingBytes += size;
    this.#unwritten.push({ address, length });
    if (idle) {
      this.#batch = this.#commit();
      return this.#batch;
    }
    if (this.#gathering) return this.#batch;
    this.#nextBatch ??= this.#batch!.then(() => {
      this.#nextBatch = undefined;
      this.#batch = this.#commit();
      return this.#batch;
    });
    return this.#nextBatch;
  }

  /** Writes everything pending, what arrives in this turn of the event loop included. Never rejects. */
  async #commit(): Promise<void> {
    this.#gathering = true;
    await undefined;
    this.#gathering = false;
    const unwritten = this.#unwritten;
    const buffers = this.#pending;
    let sequence = this.#nextSequence - BigInt(unwritten.length);
    this.#unwritten = [];
    this.#pending = [];
    this.#pendingBytes = 0;
    try {
      let at = 0;
      while (at < buffers.length && this.#spilled === undefined) {
        const part: Uint8Array[] = [];
        let bytes = 0;
        let records = 0;
        const limit = Math.min(BATCH_BYTES, this.#segmentBytes);
        while (at < buffers.length && records < BATCH_RECORDS && bytes < limit) {
          // A header and its data stay in one segment.
          const payload = (buffers[at] as Buffer).readUInt32LE(RECORD.payload);
          part.push(buffers[at++]!);
          bytes += RECORD.size + payload;
          if (payload > 0) part.push(buffers[at++]!);
          records++;
        }
        this.#rotate(sequence);
        const segment = this.#segments.at(-1)!;
        await writeAll(segment.fd, part, segment.tail);
        segment.tail += bytes;
        segment.writes++;
        this.#bytes += bytes;
        this.#behind.wrote(segment.number, segment.tail);
        sequence += BigInt(records);
      }
    } catch (error) {
      this.#spill(messageOf(error));
    }
    if (this.#spilled !== undefined)
      for (const { address, length } of unwritten) this.#markDirty(address, length);
    if (this.#nextBatch === undefined) this.#batch = undefined;
  }

  #rotate(firstSequence: bigint): void {
    const segment = this.#segments.at(-1)!;
    if (segment.tail < this.#segmentBytes) return;
    this.#beginSegment(segment.number + 1, firstSequence);
  }

  #beginSegment(number: number, firstSequence = this.#nextSequence): void {
    const path = join(this.directory, segmentName(number));
    const fd = openSync(path, 'wx+', 0o600);
    try {
      const header = emitSegmentHeader({
        purpose: this.purpose,
        generation: this.generation,
        diskId: this.diskId,
        diskSize: this.diskSize,
        firstSequence,
        number,
        createdNs: this.#clock.wallNs(),
        boot: bootId(),
      });
      for (let at = 0; at < header.length; ) at += writeSync(fd, header, at, header.length - at, at);
    } catch (error) {
      closeSync(fd);
      unlinkSync(path);
      throw error;
    }
    this.#segments.push({ number, fd, firstSequence, tail: SEGMENT.size, writes: 1, synced: 0 });
    this.#bytes += SEGMENT.size;
  }

  /** Makes everything in the files durable; a failure spills, since the pages may be gone. */
  async #sync(): Promise<void> {
    try {
      for (const segment of [...this.#segments]) {
        const { writes } = segment;
        if (segment.synced === writes) continue;
        await new Promise<void>((resolve, reject) =>
          fdatasync(segment.fd, (error) => (error ? reject(error) : resolve())),
        );
        segment.synced = writes;
      }
      const last = this.#segments.at(-1);
      const done = this.#segments.filter((segment) => segment !== last && segment.synced === segment.writes);
      this.#segments = this.#segments.filter((segment) => !done.includes(segment));
      for (const segment of done) closeSync(segment.fd);
      if (done.length > 0 || !this.#directorySynced) {
        syncDirectory(this.directory);
        // The name of the directory itself must outlive a power failure too.
        if (!this.#directorySynced) syncDirectory(dirname(this.directory));
        this.#directorySynced = true;
      }
    } catch (error) {
      this.#spill(`it cannot be made durable: ${messageOf(error)}`);
      // What was logged may be lost; only a comparison with the whole disk is certain now.
      this.#markDirty(0, Number(this.diskSize));
    }
  }

  #spill(reason: string): void {
    if (this.#spilled !== undefined) return;
    this.#spilled = reason;
    // Half a record may stand at the end; without it the log ends cleanly.
    const segment = this.#segments.at(-1);
    if (segment !== undefined) {
      try {
        ftruncateSync(segment.fd, segment.tail);
      } catch {
        // The reader cuts a torn tail off as well.
      }
    }
    this.#onSpill?.(reason);
  }

  #markDirty(address: number, length: number): void {
    this.#dirty ??= new DirtyMap(Number(this.diskSize));
    this.#dirty.mark(address, length);
  }
}

function finishShort(
  fd: number,
  header: Buffer,
  data: Uint8Array | undefined,
  done: number,
  position: number,
): void {
  const rest = Buffer.concat(data === undefined ? [header] : [header, data]).subarray(done);
  for (let at = 0; at < rest.length; ) at += writeSync(fd, rest, at, rest.length - at, position + done + at);
}

async function writeAll(fd: number, buffers: readonly Uint8Array[], position: number): Promise<void> {
  let rest = buffers;
  let at = position;
  while (rest.length > 0) {
    const done = await new Promise<number>((resolve, reject) =>
      writev(fd, rest, at, (error, n) => (error ? reject(error) : resolve(n))),
    );
    at += done;
    rest = dropBytes(rest, done);
  }
}

function dropBytes(buffers: readonly Uint8Array[], count: number): Uint8Array[] {
  let left = count;
  const rest: Uint8Array[] = [];
  for (const buffer of buffers) {
    if (left >= buffer.length) left -= buffer.length;
    else {
      rest.push(buffer.subarray(left));
      left = 0;
    }
  }
  return rest;
}
