import type {
  Device,
  DeviceCapabilities,
  Extent,
  WriteOptions,
  WriteZeroesOptions,
  WrittenExtent,
} from '../device.ts';

/**
 * A device on top of another: everything passes through, questions are asked of the next layer. A filter overrides what it
 * changes. The paths without a promise (`readAtSync`, `writeAtSync`) are not passed through here: a filter that wants them
 * defines them, so that nothing slips past one that does not.
 */
export class FilterDevice implements Device {
  readonly next: Device;
  writtenSince?: (offset: bigint, length: bigint) => Promise<WrittenExtent[]>;

  constructor(next: Device) {
    this.next = next;
    if (next.writtenSince !== undefined)
      this.writtenSince = (offset, length) => next.writtenSince!(offset, length);
  }

  get size(): bigint {
    return this.next.size;
  }

  get capabilities(): DeviceCapabilities {
    return this.next.capabilities;
  }

  readAt(target: Uint8Array, offset: bigint): Promise<void> {
    return this.next.readAt(target, offset);
  }

  writeAt(source: Uint8Array, offset: bigint, options?: WriteOptions): Promise<void> {
    return this.next.writeAt(source, offset, options);
  }

  writeZeroes(offset: bigint, length: bigint, options?: WriteZeroesOptions): Promise<void> {
    return this.next.writeZeroes(offset, length, options);
  }

  trim(offset: bigint, length: bigint, options?: WriteOptions): Promise<void> {
    return this.next.trim(offset, length, options);
  }

  flush(): Promise<void> {
    return this.next.flush();
  }

  extents(offset: bigint, length: bigint): Promise<Extent[]> {
    return this.next.extents(offset, length);
  }

  close(): Promise<void> {
    return this.next.close();
  }
}
