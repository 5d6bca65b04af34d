const SMALLEST = 4096;
/** Beside a power of two: the header of a reply whose data is one. */
const HEADROOM = 256;

/**
 * Buffers for replies and gathered payloads in sizes of powers of two and some bytes for a header, used again: touching fresh pages
 * costs more than the copy into them. What goes beyond `retainBytes` is left to the garbage collector.
 */
export class BufferPool {
  readonly #retainBytes: number;
  readonly #free = new Map<number, Buffer[]>();
  #retained = 0;

  constructor(retainBytes = 32 * 1024 * 1024) {
    this.#retainBytes = retainBytes;
  }

  get retainedBytes(): number {
    return this.#retained;
  }

  /** A buffer of at least `length` bytes with arbitrary contents; the caller's until `release`. */
  acquire(length: number): Buffer {
    const data = Math.max(SMALLEST, length - HEADROOM);
    const size = 2 ** Math.ceil(Math.log2(data)) + HEADROOM;
    const buffer = this.#free.get(size)?.pop();
    if (buffer === undefined) return Buffer.allocUnsafeSlow(size);
    this.#retained -= size;
    return buffer;
  }

  /** Gives back exactly what `acquire` returned, once. */
  release(buffer: Buffer): void {
    const size = buffer.length;
    if (this.#retained + size > this.#retainBytes) return;
    const list = this.#free.get(size);
    if (list === undefined) this.#free.set(size, [buffer]);
    else list.push(buffer);
    this.#retained += size;
  }
}
