/**
 * Keeps writes away from a device after its cut. `refuse`: EROFS. `set-aside`: the writer is told that all is well, what it
 * wrote goes to a store of its own (`Aside`), and it reads back what it wrote; the device stays as it was at the cut.
 * Either way every such late write is counted and reported.
 */
import type { Device, Extent, WriteOptions, WriteZeroesOptions } from '../device.ts';
import { DeviceError } from '../device.ts';
import { checkRange } from '../range.ts';
import { FilterDevice } from './filter-device.ts';
import type { WriteKind } from './write-trap.ts';

export type FenceMode = 'none' | 'refuse' | 'set-aside';

/** Where late writes go. Its methods throw DeviceError when they cannot keep one; the writer sees that. */
export interface Aside {
  write(kind: WriteKind, offset: number, length: number, data: Uint8Array | undefined): Promise<void>;
  /** Lays what was set aside over `target`, which holds what the device has at `offset`. */
  overlay(target: Uint8Array, offset: number): Promise<void>;
  /** Whether anything in the range was set aside. */
  touches(offset: number, length: number): boolean;
  flush(): Promise<void>;
  close(): Promise<void>;
}

export class Fence extends FilterDevice {
  #mode: FenceMode = 'none';
  #aside: Aside | undefined;
  readonly #onLateWrite: ((offset: bigint, length: bigint) => void) | undefined;
  lateWrites = 0;
  lateBytes = 0;

  constructor(next: Device, onLateWrite?: (offset: bigint, length: bigint) => void) {
    super(next);
    this.#onLateWrite = onLateWrite;
  }

  get mode(): FenceMode {
    return this.#mode;
  }

  get aside(): Aside | undefined {
    return this.#aside;
  }

  /** Puts the fence up; counts go on when it was up already. */
  raise(mode: 'refuse'): void;
  raise(mode: 'set-aside', aside: Aside): void;
  raise(mode: 'refuse' | 'set-aside', aside?: Aside): void {
    if (mode === 'set-aside' && aside === undefined)
      throw new DeviceError('EINVAL', 'a fence that sets writes aside needs a place for them');
    if (this.#mode === 'none') {
      this.lateWrites = 0;
      this.lateBytes = 0;
    }
    this.#mode = mode;
    if (aside !== undefined) this.#aside = aside;
  }

  /** Takes the fence down. What was set aside is no longer laid over reads; its store is returned, for the caller to close. */
  lower(): Aside | undefined {
    const aside = this.#aside;
    this.#mode = 'none';
    this.#aside = undefined;
    return aside;
  }

  readAtSync(target: Uint8Array, offset: bigint): boolean {
    return this.#aside === undefined && this.next.readAtSync?.(target, offset) === true;
  }

  override async readAt(target: Uint8Array, offset: bigint): Promise<void> {
    await this.next.readAt(target, offset);
    await this.#aside?.overlay(target, Number(offset));
  }

  writeAtSync(source: Uint8Array, offset: bigint): boolean {
    return this.#mode === 'none' && this.next.writeAtSync?.(source, offset) === true;
  }

  override writeAt(source: Uint8Array, offset: bigint, options?: WriteOptions): Promise<void> {
    if (this.#mode === 'none') return this.next.writeAt(source, offset, options);
    return this.#late('data', offset, BigInt(source.length), source, options);
  }

  override writeZeroes(offset: bigint, length: bigint, options?: WriteZeroesOptions): Promise<void> {
    if (this.#mode === 'none') return this.next.writeZeroes(offset, length, options);
    return this.#late('zeroes', offset, length, undefined, options);
  }

  override trim(offset: bigint, length: bigint, options?: WriteOptions): Promise<void> {
    if (this.#mode === 'none') return this.next.trim(offset, length, options);
    return this.#late('trim', offset, length, undefined, options);
  }

  override async flush(): Promise<void> {
    // A device that is shut down says so before the store of late writes is asked.
    await this.next.flush();
    await this.#aside?.flush();
  }

  override async extents(offset: bigint, length: bigint): Promise<Extent[]> {
    checkRange(this, offset, length);
    // Where anything was set aside nothing is promised to be zero.
    if (this.#aside?.touches(Number(offset), Number(length)) === true)
      return [{ offset, length, zero: false, hole: false }];
    return this.next.extents(offset, length);
  }

  override async close(): Promise<void> {
    await this.lower()?.close();
    return this.next.close();
  }

  async #late(
    kind: WriteKind,
    offset: bigint,
    length: bigint,
    data: Uint8Array | undefined,
    options: WriteOptions | undefined,
  ): Promise<void> {
    checkRange(this, offset, length);
    this.lateWrites++;
    this.lateBytes += Number(length);
    this.#onLateWrite?.(offset, length);
    if (this.#aside === undefined)
      throw new DeviceError('EROFS', `the device is fenced: a write at ${offset} came after its cut`);
    await this.#aside.write(kind, Number(offset), Number(length), data);
    if (options?.fua === true) await this.#aside.flush();
  }
}
