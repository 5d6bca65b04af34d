/**
 * The write log collection program [1002]: traps each write (Fig 10). With a sink attached, a write is told to the sink
 * first and goes to the device when the sink has it (write-ahead), so that nothing stands on the device that the sink
 * does not know. Overlapping writes are put in order: what the sink heard last is what stands on the device.
 *
 * Attach and detach only while writes stand still (`WriteGate.pause`): a write that began before is not told.
 */
import type { WriteOptions, WriteZeroesOptions, WrittenExtent } from '../device.ts';
import { DeviceError } from '../device.ts';
import { checkRange } from '../range.ts';
import { FilterDevice } from './filter-device.ts';

/** What was done to the device. */
export type WriteKind = 'data' | 'zeroes' | 'trim';

/** Who hears of writes. No method throws or rejects, whatever happens to it: the write goes on. */
export interface WriteSink {
  /** Before the write: undefined when it is kept already, else a promise that ends when it is. `data` is lent until then. */
  record(
    kind: WriteKind,
    address: number,
    length: number,
    data: Uint8Array | undefined,
    options: WriteZeroesOptions | undefined,
  ): Promise<void> | undefined;
  /**
   * As `record`, when it can be done at once; false: nothing was recorded. It may be followed by `record` of the same write:
   * whoever reads the log gets the same bytes twice.
   */
  recordNow?(kind: WriteKind, address: number, length: number, data: Uint8Array): boolean;
  /** The write is over; when not `ok`, nobody knows what stands on the device there. */
  landed(address: number, length: number, ok: boolean): void;
  /** What was written since the sink began, where it keeps account of that; as `Device.writtenSince`. */
  writtenSince?(offset: bigint, length: bigint): WrittenExtent[];
  /** The device is being flushed: what was recorded must become durable too. */
  flush(): Promise<void>;
}

interface InFlight {
  readonly start: number;
  readonly end: number;
  readonly done: Promise<void>;
}

export class WriteTrap extends FilterDevice {
  #sink: WriteSink | undefined;
  readonly #inFlight = new Set<InFlight>();

  get sink(): WriteSink | undefined {
    return this.#sink;
  }

  /** Since the sink was attached. Without one that keeps account there is no mark, and everything counts as written. */
  override writtenSince = async (offset: bigint, length: bigint): Promise<WrittenExtent[]> => {
    checkRange(this, offset, length);
    return this.#sink?.writtenSince?.(offset, length) ?? [{ offset, length, written: true }];
  };

  /** One sink at a time; throws EINVAL when there is one. */
  attach(sink: WriteSink): void {
    if (this.#sink !== undefined && this.#sink !== sink)
      throw new DeviceError('EINVAL', 'this device already has a write log');
    this.#sink = sink;
  }

  /** Ends when every write that was told to the sink so far has reached the device, or failed. */
  async settled(): Promise<void> {
    await Promise.all(Array.from(this.#inFlight, ({ done }) => done));
  }

  detach(sink: WriteSink): void {
    if (this.#sink === sink) this.#sink = undefined;
  }

  readAtSync(target: Uint8Array, offset: bigint): boolean {
    return this.next.readAtSync?.(target, offset) === true;
  }

  writeAtSync(source: Uint8Array, offset: bigint): boolean {
    const sink = this.#sink;
    if (sink === undefined) return this.next.writeAtSync?.(source, offset) === true;
    if (this.next.writeAtSync === undefined || sink.recordNow === undefined) return false;
    checkRange(this, offset, BigInt(source.length));
    const start = Number(offset);
    const end = start + source.length;
    for (const other of this.#inFlight) if (other.start < end && start < other.end) return false;
    if (!sink.recordNow('data', start, source.length, source)) return false;
    let done = false;
    try {
      done = this.next.writeAtSync(source, offset);
    } catch (error) {
      sink.landed(start, source.length, false);
      throw error;
    }
    if (done) sink.landed(start, source.length, true);
    return done;
  }

  override writeAt(source: Uint8Array, offset: bigint, options?: WriteOptions): Promise<void> {
    if (this.#sink === undefined) return this.next.writeAt(source, offset, options);
    return this.#trapped('data', Number(offset), source.length, source, options, () =>
      this.next.writeAt(source, offset, options),
    );
  }

  override writeZeroes(offset: bigint, length: bigint, options?: WriteZeroesOptions): Promise<void> {
    if (this.#sink === undefined) return this.next.writeZeroes(offset, length, options);
    return this.#trapped('zeroes', Number(offset), Number(length), undefined, options, () =>
      this.next.writeZeroes(offset, length, options),
    );
  }

  /** While a sink listens, a trim writes zeroes: what stands there afterwards must be known. */
  override trim(offset: bigint, length: bigint, options?: WriteOptions): Promise<void> {
    if (this.#sink === undefined) return this.next.trim(offset, length, options);
    return this.#trapped('trim', Number(offset), Number(length), undefined, options, () =>
      this.next.writeZeroes(offset, length, options),
    );
  }

  override async flush(): Promise<void> {
    const sink = this.#sink;
    if (sink === undefined) return this.next.flush();
    await Promise.all([sink.flush(), this.next.flush()]);
  }

  #trapped(
    kind: WriteKind,
    start: number,
    length: number,
    data: Uint8Array | undefined,
    options: WriteZeroesOptions | undefined,
    write: () => Promise<void>,
  ): Promise<void> {
    const sink = this.#sink!;
    try {
      checkRange(this, BigInt(start), BigInt(length));
    } catch (error) {
      return Promise.reject(error);
    }
    const end = start + length;
    let earlier: Promise<void>[] | undefined;
    for (const other of this.#inFlight)
      if (other.start < end && start < other.end) {
        earlier ??= [];
        earlier.push(other.done);
      }
    const work = this.#carryOut(sink, kind, start, length, data, options, write, earlier);
    const entry: InFlight = { start, end, done: work.catch(() => {}) };
    this.#inFlight.add(entry);
    void entry.done.then(() => this.#inFlight.delete(entry));
    return work;
  }

  async #carryOut(
    sink: WriteSink,
    kind: WriteKind,
    start: number,
    length: number,
    data: Uint8Array | undefined,
    options: WriteZeroesOptions | undefined,
    write: () => Promise<void>,
    earlier: Promise<void>[] | undefined,
  ): Promise<void> {
    if (earlier !== undefined) await Promise.all(earlier);
    const recorded = sink.record(kind, start, length, data, options);
    if (recorded !== undefined) await recorded;
    try {
      if (options?.fua === true) await Promise.all([sink.flush(), write()]);
      else await write();
    } catch (error) {
      sink.landed(start, length, false);
      throw error;
    }
    sink.landed(start, length, true);
  }
}
