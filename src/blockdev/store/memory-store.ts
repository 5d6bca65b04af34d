import type { Device, DeviceCapabilities, Extent } from '../device.ts';
import { DeviceError } from '../device.ts';
import { checkRange } from '../range.ts';

const PAGE = 64 * 1024;

/** A device in memory, sparse by pages of 64 KiB. For tests and simulations. */
export class MemoryStore implements Device {
  readonly size: bigint;
  readonly capabilities: DeviceCapabilities = {
    readOnly: false,
    trim: true,
    writeZeroes: true,
    fastZero: true,
    multiConn: true,
    preferredBlock: 4096,
    maxTransfer: 32 * 1024 * 1024,
  };
  readonly #pages = new Map<number, Uint8Array>();
  #closed = false;
  /** How often `flush` (or a write with `fua`) was asked. */
  flushes = 0;

  constructor(size: bigint | number) {
    this.size = BigInt(size);
  }

  async readAt(target: Uint8Array, offset: bigint): Promise<void> {
    this.readAtSync(target, offset);
  }

  readAtSync(target: Uint8Array, offset: bigint): boolean {
    this.#check(offset, BigInt(target.length));
    this.#walk(Number(offset), target.length, (page, from, to, at) => {
      const bytes = this.#pages.get(page);
      if (bytes === undefined) target.fill(0, at, at + to - from);
      else target.set(bytes.subarray(from, to), at);
    });
    return true;
  }

  async writeAt(source: Uint8Array, offset: bigint, options?: { fua?: boolean }): Promise<void> {
    this.writeAtSync(source, offset);
    if (options?.fua === true) this.flushes++;
  }

  writeAtSync(source: Uint8Array, offset: bigint): boolean {
    this.#check(offset, BigInt(source.length));
    this.#walk(Number(offset), source.length, (page, from, to, at) => {
      let bytes = this.#pages.get(page);
      if (bytes === undefined) {
        bytes = new Uint8Array(PAGE);
        this.#pages.set(page, bytes);
      }
      bytes.set(source.subarray(at, at + to - from), from);
    });
    return true;
  }

  async writeZeroes(offset: bigint, length: bigint, options?: { fua?: boolean }): Promise<void> {
    this.#check(offset, length);
    this.#walk(Number(offset), Number(length), (page, from, to) => {
      if (from === 0 && to === PAGE) this.#pages.delete(page);
      else this.#pages.get(page)?.fill(0, from, to);
    });
    if (options?.fua === true) this.flushes++;
  }

  trim(offset: bigint, length: bigint, options?: { fua?: boolean }): Promise<void> {
    return this.writeZeroes(offset, length, options);
  }

  async flush(): Promise<void> {
    this.#check(0n, 0n);
    this.flushes++;
  }

  async extents(offset: bigint, length: bigint): Promise<Extent[]> {
    this.#check(offset, length);
    const found: { offset: bigint; length: bigint; zero: boolean; hole: boolean }[] = [];
    this.#walk(Number(offset), Number(length), (page, from, to) => {
      const hole = !this.#pages.has(page);
      const last = found.at(-1);
      if (last !== undefined && last.hole === hole) last.length += BigInt(to - from);
      else
        found.push({
          offset: BigInt(page) * BigInt(PAGE) + BigInt(from),
          length: BigInt(to - from),
          zero: hole,
          hole,
        });
    });
    return found;
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  #check(offset: bigint, length: bigint): void {
    if (this.#closed) throw new DeviceError('ESHUTDOWN', 'the memory device was closed');
    checkRange(this, offset, length);
  }

  #walk(
    offset: number,
    length: number,
    visit: (page: number, from: number, to: number, at: number) => void,
  ): void {
    for (let at = 0; at < length; ) {
      const page = Math.floor((offset + at) / PAGE);
      const from = (offset + at) % PAGE;
      const to = Math.min(PAGE, from + length - at);
      visit(page, from, to, at);
      at += to - from;
    }
  }
}
