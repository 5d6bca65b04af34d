import { copyBytes } from '../wire/index.ts';

export interface PendingLimits {
  readonly pendingPacketsPerEntry: number;
  readonly pendingBytesPerEntry: number;
  readonly pendingBytes: number;
}

/** Packets that wait for one neighbour's hardware address. */
export class PendingQueue {
  packets: Uint8Array[] = [];
  bytes = 0;
}

/** What all queues of a cache hold together, kept below its limits. */
export class PendingBudget {
  readonly #limits: PendingLimits;
  #bytes = 0;

  constructor(limits: PendingLimits) {
    this.#limits = limits;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Copies a packet into a queue; false when there is no room. */
  add(queue: PendingQueue, buffer: Uint8Array, offset: number, length: number): boolean {
    const { pendingPacketsPerEntry, pendingBytesPerEntry, pendingBytes } = this.#limits;
    if (queue.packets.length >= pendingPacketsPerEntry) return false;
    if (queue.bytes + length > pendingBytesPerEntry || this.#bytes + length > pendingBytes) return false;
    queue.packets.push(copyBytes(buffer, offset, length));
    queue.bytes += length;
    this.#bytes += length;
    return true;
  }

  /** Empties a queue. */
  take(queue: PendingQueue): Uint8Array[] {
    const { packets } = queue;
    if (packets.length === 0) return packets;
    queue.packets = [];
    this.#bytes -= queue.bytes;
    queue.bytes = 0;
    return packets;
  }
}
