/**
 * Bytes between sndUna and the end of what the application has written, as one ring that grows by doubling from
 * INITIAL_BYTES to its limit. Offsets count from the oldest unacknowledged byte, so that any range can be sent again
 * in O(1). An idle connection keeps at most KEEP_BYTES, one that never sent holds nothing.
 */
const INITIAL_BYTES = 4096;
const KEEP_BYTES = 64 * 1024;
const EMPTY = new Uint8Array(0);

export class SendBuffer {
  #ring: Uint8Array = EMPTY;
  #head = 0;
  #length = 0;
  /** Bytes `room` counts against. May be raised at any time. */
  limit: number;

  constructor(limit: number) {
    this.limit = limit;
  }

  /** Bytes held. */
  get length(): number {
    return this.#length;
  }

  get room(): number {
    return Math.max(0, this.limit - this.#length);
  }

  /** Copies all of `data` in, beyond the limit too: the limit is the writer's to respect. */
  append(data: Uint8Array): void {
    const needed = this.#length + data.length;
    if (needed > this.#ring.length) this.#grow(needed);
    const ring = this.#ring;
    const at = (this.#head + this.#length) & (ring.length - 1);
    const first = Math.min(data.length, ring.length - at);
    if (first === data.length) {
      ring.set(data, at);
    } else {
      ring.set(data.subarray(0, first), at);
      ring.set(data.subarray(first), 0);
    }
    this.#length = needed;
  }

  /** Copies `length` bytes from `offset` on to `target[at…]`; the range must be held. */
  copyTo(target: Uint8Array, at: number, offset: number, length: number): void {
    const ring = this.#ring;
    const from = (this.#head + offset) & (ring.length - 1);
    const first = Math.min(length, ring.length - from);
    target.set(ring.subarray(from, from + first), at);
    if (first < length) target.set(ring.subarray(0, length - first), at + first);
  }

  /** Forgets the oldest `length` bytes. */
  release(length: number): void {
    this.#length -= length;
    if (this.#length === 0) {
      this.#head = 0;
      if (this.#ring.length > KEEP_BYTES) this.#ring = EMPTY;
    } else {
      this.#head = (this.#head + length) & (this.#ring.length - 1);
    }
  }

  clear(): void {
    this.#ring = EMPTY;
    this.#head = 0;
    this.#length = 0;
  }

  #grow(needed: number): void {
    let size = Math.max(INITIAL_BYTES, this.#ring.length);
    while (size < needed) size *= 2;
    const ring = new Uint8Array(new ArrayBuffer(size));
    this.copyTo(ring, 0, 0, this.#length);
    this.#ring = ring;
    this.#head = 0;
  }
}
