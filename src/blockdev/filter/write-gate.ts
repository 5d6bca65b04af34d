/**
 * Stops writes for an instant. While paused, whatever alters the device waits here, in order; reads and flushes pass.
 * `pause` ends when the last write that had passed is complete: from then on what lies below stands still. Pauses nest.
 */
import type { WriteOptions, WriteZeroesOptions } from '../device.ts';
import { FilterDevice } from './filter-device.ts';

export class WriteGate extends FilterDevice {
  #pauses = 0;
  #inFlight = 0;
  #opened: Promise<void> | undefined;
  #open: (() => void) | undefined;
  #drained: (() => void)[] = [];
  /** Writes that are waiting now. */
  waiting = 0;

  get paused(): boolean {
    return this.#pauses > 0;
  }

  async pause(): Promise<void> {
    if (this.#pauses++ === 0)
      this.#opened = new Promise((resolve) => {
        this.#open = resolve;
      });
    if (this.#inFlight > 0) await new Promise<void>((resolve) => this.#drained.push(resolve));
  }

  resume(): void {
    if (this.#pauses === 0 || --this.#pauses > 0) return;
    const open = this.#open;
    this.#opened = undefined;
    this.#open = undefined;
    open?.();
  }

  readAtSync(target: Uint8Array, offset: bigint): boolean {
    return this.next.readAtSync?.(target, offset) === true;
  }

  writeAtSync(source: Uint8Array, offset: bigint): boolean {
    return this.#opened === undefined && this.next.writeAtSync?.(source, offset) === true;
  }

  override writeAt(source: Uint8Array, offset: bigint, options?: WriteOptions): Promise<void> {
    return this.#opened === undefined
      ? this.#counted(this.next.writeAt(source, offset, options))
      : this.#later(() => this.next.writeAt(source, offset, options));
  }

  override writeZeroes(offset: bigint, length: bigint, options?: WriteZeroesOptions): Promise<void> {
    return this.#opened === undefined
      ? this.#counted(this.next.writeZeroes(offset, length, options))
      : this.#later(() => this.next.writeZeroes(offset, length, options));
  }

  override trim(offset: bigint, length: bigint, options?: WriteOptions): Promise<void> {
    return this.#opened === undefined
      ? this.#counted(this.next.trim(offset, length, options))
      : this.#later(() => this.next.trim(offset, length, options));
  }

  async #later(write: () => Promise<void>): Promise<void> {
    this.waiting++;
    // The gate may be paused again before this one gets its turn.
    while (this.#opened !== undefined) await this.#opened;
    this.waiting--;
    return this.#counted(write());
  }

  #counted(work: Promise<void>): Promise<void> {
    this.#inFlight++;
    return work.finally(() => {
      if (--this.#inFlight > 0 || this.#drained.length === 0) return;
      const drained = this.#drained;
      this.#drained = [];
      for (const resolve of drained) resolve();
    });
  }
}
