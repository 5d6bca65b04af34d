import type { Clock } from '../../common/index.ts';
import { systemClock } from '../../common/index.ts';
import type { Device, WriteOptions, WriteZeroesOptions } from '../device.ts';
import { FilterDevice } from './filter-device.ts';

export interface Delays {
  readonly readMs?: number;
  readonly writeMs?: number;
  readonly flushMs?: number;
}

/** A slower device: each operation starts so many milliseconds later. May be altered at any time. */
export class DelayFilter extends FilterDevice {
  delays: Delays;
  readonly #clock: Clock;

  constructor(next: Device, delays: Delays, clock: Clock = systemClock) {
    super(next);
    this.delays = delays;
    this.#clock = clock;
  }

  override async readAt(target: Uint8Array, offset: bigint): Promise<void> {
    await this.#wait(this.delays.readMs);
    return this.next.readAt(target, offset);
  }

  override async writeAt(source: Uint8Array, offset: bigint, options?: WriteOptions): Promise<void> {
    await this.#wait(this.delays.writeMs);
    return this.next.writeAt(source, offset, options);
  }

  override async writeZeroes(offset: bigint, length: bigint, options?: WriteZeroesOptions): Promise<void> {
    await this.#wait(this.delays.writeMs);
    return this.next.writeZeroes(offset, length, options);
  }

  override async trim(offset: bigint, length: bigint, options?: WriteOptions): Promise<void> {
    await this.#wait(this.delays.writeMs);
    return this.next.trim(offset, length, options);
  }

  override async flush(): Promise<void> {
    await this.#wait(this.delays.flushMs);
    return this.next.flush();
  }

  #wait(ms: number | undefined): Promise<void> | undefined {
    if (ms === undefined || ms <= 0) return undefined;
    return new Promise((resolve) => this.#clock.after(ms, resolve));
  }
}
