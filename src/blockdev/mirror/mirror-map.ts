/**
 * Where the two halves of a mirror may differ: one bit per 64 KiB, kept in `<image>.mirror` beside each half.
 *
 *   bytes 0-4095    JSON: version, generation (of the mirror, both halves have the same), size, boot id; padded with spaces
 *   bytes 4096-     the bits, lowest first
 *
 * A bit is in the file before the write it stands for is begun, so kill -9 loses none. It is not synced: a map of another boot is
 * not used, everything is copied then.
 */
import { closeSync, openSync, readFileSync, renameSync, rmSync, writeSync } from 'node:fs';
import { bootId, DIRTY_GRAIN } from '../log/index.ts';

const HEADER = 4096;

interface Header {
  readonly version: 1;
  readonly generation: string;
  readonly size: number;
  readonly boot: string;
}

export class MirrorMap {
  readonly path: string;
  readonly generation: string;
  readonly size: number;
  readonly #fd: number;
  readonly #bits: Buffer;
  #count: number;
  #closed = false;

  private constructor(path: string, fd: number, header: Header, bits: Buffer) {
    this.path = path;
    this.#fd = fd;
    this.generation = header.generation;
    this.size = header.size;
    this.#bits = bits;
    this.#count = countOf(bits);
  }

  /** Replaces what is there by a map with nothing, or everything, marked. */
  static create(path: string, generation: string, size: number, marked: boolean): MirrorMap {
    const header: Header = { version: 1, generation, size, boot: String(bootId()) };
    const bits = Buffer.alloc(bytesOf(size));
    const grains = Math.ceil(size / DIRTY_GRAIN);
    if (marked) {
      bits.fill(0xff);
      if (grains % 8 !== 0) bits[bits.length - 1] = (1 << (grains % 8)) - 1;
    }
    const fd = openSync(`${path}.new`, 'w+', 0o600);
    const head = Buffer.alloc(HEADER, ' ');
    head.write(JSON.stringify(header));
    writeWhole(fd, head, 0);
    writeWhole(fd, bits, HEADER);
    renameSync(`${path}.new`, path);
    return new MirrorMap(path, fd, header, bits);
  }

  /** The map that is there; undefined when there is none that can be relied on. */
  static open(path: string, size: number): MirrorMap | undefined {
    let fd: number;
    try {
      fd = openSync(path, 'r+');
    } catch {
      return undefined;
    }
    try {
      const bytes = readFileSync(fd);
      const header = JSON.parse(bytes.toString('utf8', 0, HEADER)) as Header;
      const bits = Buffer.from(bytes.subarray(HEADER));
      const usable =
        header.version === 1 &&
        header.size === size &&
        header.boot === String(bootId()) &&
        bits.length === bytesOf(size);
      if (usable) return new MirrorMap(path, fd, header, bits);
    } catch {
      // Not a map: closed below.
    }
    closeSync(fd);
    return undefined;
  }

  /** Bytes marked, at most. */
  get bytes(): number {
    return Math.min(this.size, this.#count * DIRTY_GRAIN);
  }

  /** In the file when it returns. */
  mark(start: number, length: number): void {
    if (length > 0)
      this.#put(Math.floor(start / DIRTY_GRAIN), Math.ceil((start + length) / DIRTY_GRAIN), true);
  }

  /** Forgets the grains that lie in [start, end) as a whole. */
  clear(start: number, end: number): void {
    const last = end === this.size ? Math.ceil(end / DIRTY_GRAIN) : Math.floor(end / DIRTY_GRAIN);
    this.#put(Math.ceil(start / DIRTY_GRAIN), last, false);
  }

  /** The first marked stretch at or after `from`, whole grains, about `atMost` bytes; undefined when there is none. */
  next(
    from: number,
    atMost = Number.MAX_SAFE_INTEGER,
  ): { readonly start: number; readonly end: number } | undefined {
    const grains = Math.ceil(this.size / DIRTY_GRAIN);
    let grain = Math.floor(from / DIRTY_GRAIN);
    while (grain < grains && !this.#has(grain)) grain += this.#skip(grain, 0);
    if (grain >= grains) return undefined;
    let end = grain + 1;
    const limit = Math.min(grains, grain + Math.ceil(atMost / DIRTY_GRAIN));
    while (end < limit && this.#has(end)) end += this.#skip(end, 0xff);
    return { start: grain * DIRTY_GRAIN, end: Math.min(this.size, end * DIRTY_GRAIN) };
  }

  /** Marks here what is marked there. */
  add(other: MirrorMap): void {
    for (let run = other.next(0); run !== undefined; run = other.next(run.end))
      this.mark(run.start, run.end - run.start);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.#fd);
  }

  /** Closes it and takes the file away. */
  remove(): void {
    this.close();
    rmSync(this.path, { force: true });
  }

  #has(grain: number): boolean {
    return (this.#bits[grain >> 3]! & (1 << (grain & 7))) !== 0;
  }

  /** Whole bytes of the same kind are stepped over at once. */
  #skip(grain: number, byte: number): number {
    return (grain & 7) === 0 && this.#bits[grain >> 3] === byte ? 8 : 1;
  }

  #put(first: number, end: number, value: boolean): void {
    let from = -1;
    let to = -1;
    for (let grain = first; grain < end; grain++) {
      if (this.#has(grain) === value) continue;
      const at = grain >> 3;
      this.#bits[at]! ^= 1 << (grain & 7);
      this.#count += value ? 1 : -1;
      if (from < 0) from = at;
      to = at + 1;
    }
    if (from < 0 || this.#closed) return;
    try {
      writeWhole(this.#fd, this.#bits.subarray(from, to), HEADER + from);
    } catch {
      // A map that cannot be kept must not be found by the next process: everything is copied then.
      try {
        rmSync(this.path, { force: true });
      } catch {
        // The directory is as broken as the file: the image beside it cannot be opened for writing either.
      }
    }
  }
}

function bytesOf(size: number): number {
  return Math.ceil(Math.ceil(size / DIRTY_GRAIN) / 8);
}

function countOf(bits: Buffer): number {
  let count = 0;
  for (const byte of bits) if (byte !== 0) for (let rest = byte; rest !== 0; rest &= rest - 1) count++;
  return count;
}

function writeWhole(fd: number, bytes: Uint8Array, position: number): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at, position + at);
}
