import type { Device, Extent, WriteOptions, WriteZeroesOptions } from '../device.ts';
import { DeviceError } from '../device.ts';
import { checkRange } from '../range.ts';
import { FilterDevice } from './filter-device.ts';

/** A part of a device as a device: `length` bytes from `start` (a partition, or an image inside an image). */
export class WindowFilter extends FilterDevice {
  readonly #start: bigint;
  readonly #length: bigint;

  /** Throws EINVAL when the window is not inside the device. Closing it closes the device. */
  constructor(next: Device, start: bigint, length: bigint) {
    super(next);
    if (start < 0n || length < 0n || start + length > next.size)
      throw new DeviceError(
        'EINVAL',
        `window [${start}, ${start + length}) is not inside a device of ${next.size} bytes`,
      );
    this.#start = start;
    this.#length = length;
    if (next.writtenSince !== undefined)
      this.writtenSince = async (offset, wanted) =>
        (await next.writtenSince!(offset + start, wanted)).map((e) => ({ ...e, offset: e.offset - start }));
  }

  override get size(): bigint {
    return this.#length;
  }

  readAtSync(target: Uint8Array, offset: bigint): boolean {
    checkRange(this, offset, BigInt(target.length));
    return this.next.readAtSync?.(target, offset + this.#start) === true;
  }

  override async readAt(target: Uint8Array, offset: bigint): Promise<void> {
    checkRange(this, offset, BigInt(target.length));
    return this.next.readAt(target, offset + this.#start);
  }

  writeAtSync(source: Uint8Array, offset: bigint): boolean {
    checkRange(this, offset, BigInt(source.length));
    return this.next.writeAtSync?.(source, offset + this.#start) === true;
  }

  override async writeAt(source: Uint8Array, offset: bigint, options?: WriteOptions): Promise<void> {
    checkRange(this, offset, BigInt(source.length));
    return this.next.writeAt(source, offset + this.#start, options);
  }

  override async writeZeroes(offset: bigint, length: bigint, options?: WriteZeroesOptions): Promise<void> {
    checkRange(this, offset, length);
    return this.next.writeZeroes(offset + this.#start, length, options);
  }

  override async trim(offset: bigint, length: bigint, options?: WriteOptions): Promise<void> {
    checkRange(this, offset, length);
    return this.next.trim(offset + this.#start, length, options);
  }

  override async extents(offset: bigint, length: bigint): Promise<Extent[]> {
    checkRange(this, offset, length);
    const found = await this.next.extents(offset + this.#start, length);
    return found.map((extent) => ({ ...extent, offset: extent.offset - this.#start }));
  }
}
