/**
 * A device with two halves. Every write goes to both, reads come from the first. Alone, it passes everything through; with a
 * map it also notes what is written, so that a half that was taken away can be brought back by copying only that.
 *
 *   alone      no map                          nothing is noted
 *   tracking   map                             a bit per 64 KiB that was written
 *   mirrored   map, second half                bits: not copied yet, or written and not flushed on both halves
 *
 * Writes that overlap, and the slices of a resynchronisation, are carried out one after the other in the order in which they came:
 * on both halves the same one is the last. A bit is cleared when its grain was copied, or when a flush of both halves
 * that began after its last write is complete; until then kill -9 may have left it on one half only.
 *
 * A half that fails is dropped and never used again before it is resynchronised: the second one at any error, the first one at
 * a failed write or flush while the second holds everything. Before that, errors of the first reach the guest.
 */
import { CodedError, codeOf, messageOf } from '../../common/index.ts';
import type { Device, Extent, WriteOptions, WriteZeroesOptions } from '../device.ts';
import { FilterDevice } from '../filter/index.ts';
import { DIRTY_GRAIN } from '../log/index.ts';
import { walkExtents } from '../range.ts';
import type { MirrorMap } from './mirror-map.ts';

/** `half-dropped`: a half failed while it was being brought up to date. */
export class MirrorError extends CodedError {}

export type Half = 'first' | 'second';

interface InFlight {
  readonly start: number;
  readonly end: number;
  readonly done: Promise<void>;
}

export interface ResyncOptions {
  /** Before each slice; may wait or throw. */
  readonly before?: (bytes: number) => Promise<void>;
  readonly onBytes?: (bytes: number) => void;
}

const SLICE = 1024 * 1024;
/** Holes are zeroed so many bytes at a time. */
const HOLE_SLICE = 4 * 1024 * 1024 * 1024;

export class MirrorDevice extends FilterDevice {
  #map: MirrorMap | undefined;
  #second: Device | undefined;
  /** Everything was copied once since the second half was attached. */
  #whole = false;
  #dropped: { readonly half: Half; readonly reason: string } | undefined;
  #onDropped: ((half: Half, reason: string) => void) | undefined;
  readonly #inFlight = new Set<InFlight>();
  /** Grains written since they were last known to be equal and durable, with the number of the last write. */
  #written = new Map<number, number>();
  #number = 0;
  /** Reads of the first half that failed and came from the second. */
  readErrors = 0;

  get map(): MirrorMap | undefined {
    return this.#map;
  }

  /** It has a second half that is used. */
  get mirrored(): boolean {
    return this.#second !== undefined && this.#dropped?.half !== 'second';
  }

  /** Both halves hold the same, writes under way aside. */
  get whole(): boolean {
    return this.#whole && this.#second !== undefined && this.#dropped === undefined;
  }

  get dropped(): { readonly half: Half; readonly reason: string } | undefined {
    return this.#dropped;
  }

  /** Only while writes stand still. */
  track(map: MirrorMap | undefined): void {
    if (this.#map !== map) this.#map?.close();
    this.#map = map;
  }

  /** Only while writes stand still, and with a map: what it has marked is what `resync` will copy. */
  attach(second: Device, onDropped?: (half: Half, reason: string) => void): void {
    this.#second = second;
    this.#onDropped = onDropped;
    this.#dropped = undefined;
    this.#whole = false;
    this.#written = new Map();
  }

  /** Takes the second half away; what is written from now on is noted. Only while writes stand still. */
  detach(): void {
    if (this.#dropped?.half !== 'first') this.#second = undefined;
    this.#whole = false;
    this.#written = new Map();
  }

  /** Copies what the map has marked; ends when both halves are the same. Throws what a half failed with. */
  async resync(options: ResyncOptions = {}): Promise<void> {
    const map = this.#map;
    if (map === undefined || this.#second === undefined) return;
    // What is written during the copy goes to both halves: one pass is enough.
    for (let run = map.next(0, HOLE_SLICE); run !== undefined; ) {
      const end = await this.#copySlice(map, run.start, run.end, options);
      run = map.next(end, HOLE_SLICE);
    }
    if (this.#second !== undefined && this.#dropped === undefined) this.#whole = true;
  }

  async #copySlice(map: MirrorMap, start: number, end: number, options: ResyncOptions): Promise<number> {
    const { zero, stop } = await this.#sliceAt(start, end);
    await options.before?.(zero ? 0 : stop - start);
    await this.#inTurn(start, stop, async () => {
      const second = this.#second;
      if (second === undefined || this.#dropped !== undefined) return;
      const offset = BigInt(start);
      const numbers = this.#number;
      // Asked again: it may have been written since.
      const extents = zero ? await this.next.extents(offset, BigInt(stop - start)) : [];
      if (zero && extents[0]?.zero === true && extents[0].length >= BigInt(stop - start))
        await this.#ofSecond(second.writeZeroes(offset, BigInt(stop - start)));
      else
        for (let at = start; at < stop; at += SLICE) {
          const part = Buffer.allocUnsafe(Math.min(SLICE, stop - at));
          await this.next.readAt(part, BigInt(at));
          await this.#ofSecond(second.writeAt(part, BigInt(at)));
        }
      if (this.#dropped !== undefined) return;
      // Grains with writes that no flush covers keep their bit.
      this.#clearQuiet(map, start, stop, numbers);
    });
    if (this.dropped !== undefined)
      throw new MirrorError('half-dropped', `the ${this.dropped.half} half failed: ${this.dropped.reason}`);
    if (!zero) options.onBytes?.(stop - start);
    return stop;
  }

  async #sliceAt(start: number, end: number): Promise<{ zero: boolean; stop: number }> {
    for await (const extent of walkExtents(this.next, BigInt(start), BigInt(end - start))) {
      const stop = Number(extent.offset + extent.length);
      if (!extent.zero) break;
      // Whole grains only.
      const whole = stop === end ? end : Math.floor(stop / DIRTY_GRAIN) * DIRTY_GRAIN;
      if (whole <= start) break;
      return { zero: true, stop: Math.min(whole, start + HOLE_SLICE) };
    }
    return { zero: false, stop: Math.min(end, start + SLICE) };
  }

  #clearQuiet(map: MirrorMap, start: number, stop: number, upTo: number): void {
    if (this.#written.size === 0) {
      map.clear(start, stop);
      return;
    }
    const first = Math.floor(start / DIRTY_GRAIN);
    const last = Math.ceil(stop / DIRTY_GRAIN);
    for (let grain = first; grain < last; grain++) {
      const written = this.#written.get(grain);
      if (written !== undefined && written > upTo) continue;
      this.#written.delete(grain);
      map.clear(grain * DIRTY_GRAIN, Math.min(Number(this.size), (grain + 1) * DIRTY_GRAIN));
    }
  }

  readAtSync(target: Uint8Array, offset: bigint): boolean {
    if (this.#dropped?.half === 'first') return false;
    if (this.#second === undefined) return this.next.readAtSync?.(target, offset) === true;
    try {
      return this.next.readAtSync?.(target, offset) === true;
    } catch {
      // The other half is asked there.
      return false;
    }
  }

  writeAtSync(source: Uint8Array, offset: bigint): boolean {
    if (this.#second !== undefined || this.next.writeAtSync === undefined) return false;
    this.#map?.mark(Number(offset), source.length);
    return this.next.writeAtSync(source, offset);
  }

  override async readAt(target: Uint8Array, offset: bigint): Promise<void> {
    const second = this.#second;
    if (second === undefined) return this.next.readAt(target, offset);
    if (this.#dropped?.half === 'first') return second.readAt(target, offset);
    try {
      await this.next.readAt(target, offset);
    } catch (error) {
      if (!this.whole) throw error;
      this.readErrors++;
      await second.readAt(target, offset);
    }
  }

  override writeAt(source: Uint8Array, offset: bigint, options?: WriteOptions): Promise<void> {
    return this.#write(Number(offset), source.length, (device) => device.writeAt(source, offset, options));
  }

  override writeZeroes(offset: bigint, length: bigint, options?: WriteZeroesOptions): Promise<void> {
    return this.#write(Number(offset), Number(length), (device) =>
      device.writeZeroes(offset, length, options),
    );
  }

  /** Zeroes on both halves while there are two: what stands there afterwards must be the same. */
  override trim(offset: bigint, length: bigint, options?: WriteOptions): Promise<void> {
    return this.#write(Number(offset), Number(length), (device) =>
      this.#second === undefined
        ? device.trim(offset, length, options)
        : device.writeZeroes(offset, length, options),
    );
  }

  override async flush(): Promise<void> {
    if (this.#second === undefined) return this.next.flush();
    const before = this.#number;
    await this.#both((device) => device.flush());
    if (this.#dropped !== undefined || this.#map === undefined || !this.#whole) return;
    for (const [grain, number] of this.#written) {
      if (number > before || this.#underWay(grain)) continue;
      this.#written.delete(grain);
      this.#map.clear(grain * DIRTY_GRAIN, Math.min(Number(this.size), (grain + 1) * DIRTY_GRAIN));
    }
  }

  override extents(offset: bigint, length: bigint): Promise<Extent[]> {
    const device = this.#dropped?.half === 'first' ? this.#second! : this.next;
    return device.extents(offset, length);
  }

  #write(start: number, length: number, write: (device: Device) => Promise<void>): Promise<void> {
    if (this.#map === undefined) return write(this.next);
    if (this.#second === undefined) {
      this.#map.mark(start, length);
      return write(this.next);
    }
    const end = start + length;
    return this.#inTurn(start, end, async () => {
      const number = ++this.#number;
      for (let grain = Math.floor(start / DIRTY_GRAIN); grain * DIRTY_GRAIN < end; grain++)
        this.#written.set(grain, number);
      this.#map?.mark(start, length);
      await this.#both(write);
    });
  }

  /** On the halves that are used; fails when none of them holds the write. */
  async #both(work: (device: Device) => Promise<void>): Promise<void> {
    const second = this.#second;
    if (second === undefined) return work(this.next);
    if (this.#dropped?.half === 'first') return work(second);
    if (this.#dropped?.half === 'second') return work(this.next);
    const [one, two] = await Promise.allSettled([work(this.next), work(second)]);
    if (two.status === 'rejected') {
      this.#drop('second', two.reason);
      if (one.status === 'rejected') throw one.reason;
    } else if (one.status === 'rejected') {
      if (!this.#whole || !this.#drop('first', one.reason)) throw one.reason;
    }
  }

  /** False when the first half had to stay, because it could not be noted that it is stale: the second one is dropped then. */
  #drop(half: Half, error: unknown): boolean {
    if (this.#dropped !== undefined) return this.#dropped.half === half;
    const reason = messageOf(error);
    // Nobody knows what of the writes before it is left, unless the half was only full.
    if (codeOf(error) !== 'ENOSPC') this.#map?.mark(0, Number(this.size));
    this.#dropped = { half, reason };
    try {
      this.#onDropped?.(half, reason);
      return true;
    } catch (failure) {
      if (half === 'second') return true;
      // Without the note the first half would be taken for the disk after a restart, without the writes that the second one got.
      const both = `${reason}; and it could not be noted that the first half failed: ${messageOf(failure)}`;
      this.#dropped = { half: 'second', reason: both };
      this.#onDropped?.('second', both);
      return false;
    }
  }

  async #ofSecond(work: Promise<void>): Promise<void> {
    try {
      await work;
    } catch (error) {
      this.#drop('second', error);
    }
  }

  #underWay(grain: number): boolean {
    const start = grain * DIRTY_GRAIN;
    for (const other of this.#inFlight)
      if (other.start < start + DIRTY_GRAIN && start < other.end) return true;
    return false;
  }

  #inTurn(start: number, end: number, work: () => Promise<void>): Promise<void> {
    const earlier: Promise<void>[] = [];
    for (const other of this.#inFlight) if (other.start < end && start < other.end) earlier.push(other.done);
    const run = earlier.length === 0 ? work() : Promise.all(earlier).then(work);
    const entry: InFlight = { start, end, done: run.catch(() => {}) };
    this.#inFlight.add(entry);
    void entry.done.then(() => this.#inFlight.delete(entry));
    return run;
  }
}
