/**
 * Who may use the rest of a receiver's queue. While the queue is less than half full, everybody; from then on those senders
 * whose share of what it got lately is no more than an equal one. So the queue of a receiver that many want is filled up by
 * nobody alone, and the packets that are lost are those of the senders who are too many. A sender without a rival leaves the
 * last eighth: whoever was silent finds room there, and is a rival from then on. First packets of flows that nobody knows
 * count as a sender of their own: a flood of them does not take the queue from the flows that are known, and these, however many bytes
 * they carry, leave room for new ones. Shares are bytes, and PACKET_BYTES for
 * what each packet costs its receiver however small it is; they halve every HALF_LIFE_MS.
 */
import type { LinkDevice } from '../../netstack/index.ts';

/** A device whose queue says how full it is. */
export interface QueueingDevice extends LinkDevice {
  /** The part of its room that is in use, 0 to 1. */
  readonly fill: number;
  /** Bytes that wait in it. */
  readonly queuedBytes: number;
  /** What carries its packets; undefined while nobody is connected. */
  readonly carrier?: 'stream' | 'ring' | undefined;
}

export function isQueueing(device: LinkDevice): device is QueueingDevice {
  return 'fill' in device;
}

/** The number of the sender that first packets of flows count for; ports have the numbers behind it. */
export const NEWCOMERS = 0;

const HALF_LIFE_MS = 20;
const PACKET_BYTES = 4096;
/** From this fill on senders are compared. */
const COMPARED_FROM = 0.5;
/** What a sender without a rival may fill. */
const ALONE_UP_TO = 7 / 8;
/** Below it a sender is none. */
const LEAST_BYTES = 64;

export class FairShares {
  #bytes = new Float64Array(8);
  #total = 0;
  #senders = 0;
  #decayedMs = 0;

  /** Whether a packet of `sender` (any small number) may enter a queue of which `fill`, 0 to 1, is in use. */
  allows(sender: number, fill: number): boolean {
    if (fill < COMPARED_FROM) return true;
    // Newcomers alone are too many, too: who is known but silent finds half of the queue.
    const senders = sender === NEWCOMERS ? Math.max(2, this.#senders) : this.#senders;
    const bytes = this.#bytes[sender] ?? 0;
    if (senders < 2 && bytes >= LEAST_BYTES) return fill < ALONE_UP_TO;
    return bytes * senders <= this.#total;
  }

  add(sender: number, bytes: number, nowMs: number): void {
    if (nowMs - this.#decayedMs >= HALF_LIFE_MS) this.#decay(nowMs);
    if (sender >= this.#bytes.length) this.#grow(sender);
    if (this.#bytes[sender]! < LEAST_BYTES) this.#senders++;
    this.#bytes[sender]! += bytes + PACKET_BYTES;
    this.#total += bytes + PACKET_BYTES;
  }

  #decay(nowMs: number): void {
    const factor = 0.5 ** ((nowMs - this.#decayedMs) / HALF_LIFE_MS);
    this.#decayedMs = nowMs;
    this.#total = 0;
    this.#senders = 0;
    for (let i = 0; i < this.#bytes.length; i++) {
      const bytes = this.#bytes[i]! * factor;
      this.#bytes[i] = bytes < LEAST_BYTES ? 0 : bytes;
      if (bytes < LEAST_BYTES) continue;
      this.#total += bytes;
      this.#senders++;
    }
  }

  #grow(sender: number): void {
    const bytes = new Float64Array(2 * sender);
    bytes.set(this.#bytes);
    this.#bytes = bytes;
  }
}
