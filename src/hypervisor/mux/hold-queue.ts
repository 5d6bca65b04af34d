/**
 * Packets that wait, in order of arrival, as copies. Memory is one arena that grows by doubling up to the byte limit and is
 * given up when the hold ends.
 */
import { copyPacket } from '../../netstack/index.ts';

const FIRST_ARENA = 64 * 1024;

export interface HoldQueueLimits {
  readonly packets: number;
  readonly bytes: number;
}

export class HoldQueue {
  limits: HoldQueueLimits;
  #arena = new Uint8Array(0);
  #fill = 0;
  #offset = new Int32Array(0);
  #length = new Int32Array(0);
  #port = new Int32Array(0);
  #atMs = new Float64Array(0);
  #head = 0;
  #tail = 0;

  constructor(limits: HoldQueueLimits) {
    this.limits = limits;
  }

  get count(): number {
    return this.#tail - this.#head;
  }

  /** Takes a copy; false when a limit is reached. `port` is the one it came from. */
  push(buffer: Uint8Array, offset: number, length: number, port: number, nowMs: number): boolean {
    if (this.count >= this.limits.packets || this.#fill + length > this.limits.bytes) return false;
    if (this.#fill + length > this.#arena.length) {
      const size = Math.min(
        this.limits.bytes,
        Math.max(FIRST_ARENA, this.#arena.length * 2, this.#fill + length),
      );
      const arena = new Uint8Array(size);
      arena.set(this.#arena.subarray(0, this.#fill));
      this.#arena = arena;
    }
    if (this.#tail === this.#offset.length) this.#growIndex();
    const at = this.#tail++;
    this.#offset[at] = this.#fill;
    this.#length[at] = length;
    this.#port[at] = port;
    this.#atMs[at] = nowMs;
    copyPacket(buffer, offset, this.#arena, this.#fill, length);
    this.#fill += length;
    return true;
  }

  /**
   * Hands packets out, oldest first, until `give` says false (that one stays the oldest) or none is left. The receiver may
   * change the bytes only if it takes the packet.
   */
  drain(
    give: (buffer: Uint8Array, offset: number, length: number, port: number, atMs: number) => boolean,
  ): void {
    while (this.#head < this.#tail) {
      const at = this.#head;
      if (!give(this.#arena, this.#offset[at]!, this.#length[at]!, this.#port[at]!, this.#atMs[at]!)) {
        return;
      }
      this.#head++;
    }
    this.#head = 0;
    this.#tail = 0;
    this.#fill = 0;
  }

  #growIndex(): void {
    const size = Math.max(64, this.#offset.length * 2);
    const grow = <T extends Int32Array | Float64Array>(from: T, to: T): T => {
      to.set(from);
      return to;
    };
    this.#offset = grow(this.#offset, new Int32Array(size));
    this.#length = grow(this.#length, new Int32Array(size));
    this.#port = grow(this.#port, new Int32Array(size));
    this.#atMs = grow(this.#atMs, new Float64Array(size));
  }
}
