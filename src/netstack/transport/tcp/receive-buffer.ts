/**
 * In-order bytes the application has not taken yet, as a list of chunks cut from a slab that all connections of a stack
 * share. A chunk is handed to the application as it is and never written again, so it needs no copy; a slab lives as
 * long as one of its chunks. Consecutive segments that lie side by side in the slab become one chunk.
 */
import { collectGarbage } from '../../../common/index.ts';

const SLAB_BYTES = 64 * 1024;
/** From here on a segment gets memory of its own rather than a part of the slab. */
const OWN_BYTES = 16 * 1024;
/** After so many bytes of new memory what is dead of it is collected: before V8 walks the whole heap for it. */
const COLLECT_BYTES = 16 * 1024 * 1024;

/** Source of chunk memory; one per stack. */
export class Slab {
  #memory: Buffer = Buffer.allocUnsafeSlow(SLAB_BYTES);
  #used = 0;
  #sinceCollection = 0;

  /** Copies `source[offset, offset + length)` and returns where it stands now. */
  copy(source: Uint8Array, offset: number, length: number): Buffer {
    const part = source.subarray(offset, offset + length);
    if (length >= OWN_BYTES) {
      const own = this.#make(length);
      own.set(part, 0);
      return own;
    }
    if (this.#used + length > SLAB_BYTES) {
      this.#memory = this.#make(SLAB_BYTES);
      this.#used = 0;
    }
    const at = this.#used;
    this.#memory.set(part, at);
    this.#used += length;
    return this.#memory.subarray(at, at + length);
  }

  #make(bytes: number): Buffer {
    this.#sinceCollection += bytes;
    if (this.#sinceCollection >= COLLECT_BYTES) {
      this.#sinceCollection = 0;
      collectGarbage('young');
    }
    return Buffer.allocUnsafeSlow(bytes);
  }
}

export class ReceiveQueue {
  readonly #slab: Slab;
  #chunks: Buffer[] = [];
  #head = 0;
  #length = 0;

  constructor(slab: Slab) {
    this.#slab = slab;
  }

  /** Bytes queued. */
  get length(): number {
    return this.#length;
  }

  append(source: Uint8Array, offset: number, length: number): void {
    if (length === 0) return;
    const chunk = this.#slab.copy(source, offset, length);
    this.#length += length;
    const last = this.#chunks.length - 1;
    const before = last >= this.#head ? this.#chunks[last]! : undefined;
    if (
      before !== undefined &&
      before.buffer === chunk.buffer &&
      before.byteOffset + before.length === chunk.byteOffset
    ) {
      this.#chunks[last] = Buffer.from(chunk.buffer, before.byteOffset, before.length + length);
    } else {
      this.#chunks.push(chunk);
    }
  }

  /** Takes the oldest chunk out; undefined when nothing is queued. It belongs to the caller. */
  shift(): Buffer | undefined {
    if (this.#head === this.#chunks.length) return undefined;
    const chunk = this.#chunks[this.#head]!;
    this.#head++;
    this.#length -= chunk.length;
    if (this.#head === this.#chunks.length) {
      this.#chunks = [];
      this.#head = 0;
    } else if (this.#head > 64 && this.#head * 2 > this.#chunks.length) {
      this.#chunks = this.#chunks.slice(this.#head);
      this.#head = 0;
    }
    return chunk;
  }

  /** All queued bytes as one buffer; the queue keeps them. */
  peekAll(): Buffer {
    return Buffer.concat(this.#chunks.slice(this.#head), this.#length);
  }

  clear(): void {
    this.#chunks = [];
    this.#head = 0;
    this.#length = 0;
  }
}
