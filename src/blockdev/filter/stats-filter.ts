import type { WriteOptions, WriteZeroesOptions } from '../device.ts';
import { FilterDevice } from './filter-device.ts';

/** Counts what passes. Zeroes and trims count as writes, their length not as bytes written. */
export class StatsFilter extends FilterDevice {
  reads = 0;
  writes = 0;
  flushes = 0;
  bytesRead = 0;
  bytesWritten = 0;
  /** performance.now() of the last write; undefined when there was none. */
  lastWriteMs: number | undefined;

  readAtSync(target: Uint8Array, offset: bigint): boolean {
    if (this.next.readAtSync?.(target, offset) !== true) return false;
    this.reads++;
    this.bytesRead += target.length;
    return true;
  }

  override readAt(target: Uint8Array, offset: bigint): Promise<void> {
    this.reads++;
    this.bytesRead += target.length;
    return this.next.readAt(target, offset);
  }

  writeAtSync(source: Uint8Array, offset: bigint): boolean {
    if (this.next.writeAtSync?.(source, offset) !== true) return false;
    this.#wrote(source.length);
    return true;
  }

  override writeAt(source: Uint8Array, offset: bigint, options?: WriteOptions): Promise<void> {
    this.#wrote(source.length);
    return this.next.writeAt(source, offset, options);
  }

  override writeZeroes(offset: bigint, length: bigint, options?: WriteZeroesOptions): Promise<void> {
    this.#wrote(0);
    return this.next.writeZeroes(offset, length, options);
  }

  override trim(offset: bigint, length: bigint, options?: WriteOptions): Promise<void> {
    this.#wrote(0);
    return this.next.trim(offset, length, options);
  }

  override flush(): Promise<void> {
    this.flushes++;
    return this.next.flush();
  }

  #wrote(bytes: number): void {
    this.writes++;
    this.bytesWritten += bytes;
    this.lastWriteMs = performance.now();
  }
}
