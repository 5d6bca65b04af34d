import type { Device, Extent, WriteOptions, WriteZeroesOptions } from '../../../src/blockdev/index.ts';
import { DeviceError, FilterDevice, type MemoryStore } from '../../../src/blockdev/index.ts';

type Operation = 'read' | 'write' | 'zeroes' | 'trim' | 'flush' | 'extents';

/** A device whose operations wait until the test lets them go, or fail as it says; has no synchronous path. */
export class SlowDevice extends FilterDevice {
  /** Operations that began, in order. */
  readonly began: string[] = [];
  /** While true, operations wait for `open`. */
  gated = false;
  failWith: unknown;
  #waiting: (() => void)[] = [];
  inFlight = 0;

  constructor(next: MemoryStore | Device) {
    super(next);
  }

  open(): void {
    this.gated = false;
    for (const go of this.#waiting.splice(0)) go();
  }

  /** Lets the latest one go first. */
  openBackwards(): void {
    this.gated = false;
    for (const go of this.#waiting.splice(0).reverse()) go();
  }

  async #pass<T>(operation: Operation, offset: bigint, work: () => Promise<T>): Promise<T> {
    this.began.push(`${operation} ${offset}`);
    this.inFlight++;
    try {
      if (this.gated) {
        await new Promise<void>((resolve) => {
          this.#waiting.push(resolve);
        });
      }
      if (this.failWith !== undefined) throw this.failWith;
      return await work();
    } finally {
      this.inFlight--;
    }
  }

  override readAt(target: Uint8Array, offset: bigint): Promise<void> {
    return this.#pass('read', offset, () => super.readAt(target, offset));
  }

  override writeAt(source: Uint8Array, offset: bigint, options?: WriteOptions): Promise<void> {
    return this.#pass('write', offset, () => super.writeAt(source, offset, options));
  }

  override writeZeroes(offset: bigint, length: bigint, options?: WriteZeroesOptions): Promise<void> {
    return this.#pass('zeroes', offset, () => super.writeZeroes(offset, length, options));
  }

  override trim(offset: bigint, length: bigint, options?: WriteOptions): Promise<void> {
    return this.#pass('trim', offset, () => super.trim(offset, length, options));
  }

  override flush(): Promise<void> {
    return this.#pass('flush', 0n, () => super.flush());
  }

  override extents(offset: bigint, length: bigint): Promise<Extent[]> {
    return this.#pass('extents', offset, () => super.extents(offset, length));
  }
}

export const failure = (code: DeviceError['code']) => new DeviceError(code, `told to fail with ${code}`);
