import type { Clock } from '../../common/index.ts';
import { systemClock } from '../../common/index.ts';
import type { Device, WriteOptions, WriteZeroesOptions } from '../device.ts';
import { FilterDevice } from './filter-device.ts';

/** What a write of zeroes or a trim counts: it is cheap to log and to reflect, whatever its length. */
const RANGE_BYTES = 4096;

/** Slows writes down to a rate, no write by more than a limit; off until asked. Reads pass. */
export class WriteThrottle extends FilterDevice {
  readonly #clock: Clock;
  #bytesPerSecond = 0;
  #maxDelayMs = 0;
  #freeAtMs = 0;
  /** Writes that were delayed, and by how much together. */
  delayed = 0;
  delayedMs = 0;

  constructor(next: Device, clock: Clock = systemClock) {
    super(next);
    this.#clock = clock;
  }

  /** Bytes per second let through; 0 when it is off. */
  get bytesPerSecond(): number {
    return this.#bytesPerSecond;
  }

  limit(bytesPerSecond: number, maxDelayMs: number): void {
    this.#bytesPerSecond = maxDelayMs > 0 ? bytesPerSecond : 0;
    this.#maxDelayMs = maxDelayMs;
  }

  lift(): void {
    this.#bytesPerSecond = 0;
  }

  readAtSync(target: Uint8Array, offset: bigint): boolean {
    return this.next.readAtSync?.(target, offset) === true;
  }

  writeAtSync(source: Uint8Array, offset: bigint): boolean {
    return this.#bytesPerSecond === 0 && this.next.writeAtSync?.(source, offset) === true;
  }

  override writeAt(source: Uint8Array, offset: bigint, options?: WriteOptions): Promise<void> {
    const delay = this.#delay(source.length);
    return delay === undefined
      ? this.next.writeAt(source, offset, options)
      : delay.then(() => this.next.writeAt(source, offset, options));
  }

  override writeZeroes(offset: bigint, length: bigint, options?: WriteZeroesOptions): Promise<void> {
    const delay = this.#delay(RANGE_BYTES);
    return delay === undefined
      ? this.next.writeZeroes(offset, length, options)
      : delay.then(() => this.next.writeZeroes(offset, length, options));
  }

  override trim(offset: bigint, length: bigint, options?: WriteOptions): Promise<void> {
    const delay = this.#delay(RANGE_BYTES);
    return delay === undefined
      ? this.next.trim(offset, length, options)
      : delay.then(() => this.next.trim(offset, length, options));
  }

  #delay(bytes: number): Promise<void> | undefined {
    if (this.#bytesPerSecond === 0) return undefined;
    const nowMs = this.#clock.nowMs();
    // What a bounded delay could not hold back is not carried forward.
    const startMs = Math.min(Math.max(nowMs, this.#freeAtMs), nowMs + this.#maxDelayMs);
    this.#freeAtMs = startMs + (bytes / this.#bytesPerSecond) * 1000;
    if (startMs <= nowMs) return undefined;
    this.delayed++;
    this.delayedMs += startMs - nowMs;
    return new Promise((resolve) => this.#clock.after(startMs - nowMs, resolve));
  }
}
