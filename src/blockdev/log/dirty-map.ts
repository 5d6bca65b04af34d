import type { WrittenExtent } from '../device.ts';

/** Bytes of the disk that one bit stands for. */
export const DIRTY_GRAIN = 64 * 1024;

/** Which parts of a disk were written, one bit per 64 KiB: what is left to say when a log cannot be kept any more. */
export class DirtyMap {
  readonly #bits: Uint8Array;
  readonly #size: number;
  #count = 0;

  constructor(size: number) {
    this.#size = size;
    this.#bits = new Uint8Array(Math.ceil(Math.ceil(size / DIRTY_GRAIN) / 8));
  }

  /** Bytes marked, at most. */
  get bytes(): number {
    return Math.min(this.#size, this.#count * DIRTY_GRAIN);
  }

  mark(start: number, length: number): void {
    if (length <= 0) return;
    const last = Math.floor((start + length - 1) / DIRTY_GRAIN);
    for (let grain = Math.floor(start / DIRTY_GRAIN); grain <= last; grain++) {
      const at = Math.floor(grain / 8);
      const bit = 1 << (grain & 7);
      if ((this.#bits[at]! & bit) !== 0) continue;
      this.#bits[at]! |= bit;
      this.#count++;
    }
  }

  /** Whether anything of [start, end) is marked. */
  has(start: number, end: number): boolean {
    for (let grain = Math.floor(start / DIRTY_GRAIN); grain * DIRTY_GRAIN < end; grain++)
      if ((this.#bits[Math.floor(grain / 8)]! & (1 << (grain & 7))) !== 0) return true;
    return false;
  }

  /** [offset, offset + length) in runs of marked and unmarked bytes, adjacent ones differing. */
  extents(offset: bigint, length: bigint): WrittenExtent[] {
    const found: WrittenExtent[] = [];
    const end = Number(offset + length);
    for (let at = Number(offset); at < end; ) {
      const written = this.has(at, at + 1);
      let stop = at;
      while (stop < end && this.has(stop, stop + 1) === written)
        stop = (Math.floor(stop / DIRTY_GRAIN) + 1) * DIRTY_GRAIN;
      stop = Math.min(stop, end);
      found.push({ offset: BigInt(at), length: BigInt(stop - at), written });
      at = stop;
    }
    return found;
  }

  /** Marked ranges, ascending, adjacent ones merged. */
  ranges(): { readonly start: number; readonly end: number }[] {
    const found: { start: number; end: number }[] = [];
    for (let at = 0; at < this.#bits.length; at++) {
      const byte = this.#bits[at]!;
      if (byte === 0) continue;
      for (let bit = 0; bit < 8; bit++) {
        if ((byte & (1 << bit)) === 0) continue;
        const start = (at * 8 + bit) * DIRTY_GRAIN;
        const end = Math.min(this.#size, start + DIRTY_GRAIN);
        const last = found.at(-1);
        if (last !== undefined && last.end === start) last.end = end;
        else found.push({ start, end });
      }
    }
    return found;
  }
}
