import { PortRing } from '../../../netstack/index.ts';
import type { Carrier, CarrierOwner } from './carrier.ts';

/**
 * Bytes and packets that are copied out of the ring at once and handled as a whole. More would make a flood of small packets cost
 * its neighbours more than their share of a turn.
 */
const PORTION_BYTES = 128 * 1024;
const PORTION_PACKETS = 256;
/** From here on the true number is worth a look at what the partition has taken. */
const UNSURE_BYTES = 64 * 1024;

/** Copies of what a partition's ring held, shared by all ports: a portion is handled before the next one is read. */
const portion = Buffer.allocUnsafeSlow(PORTION_BYTES);
const index = new Uint32Array(2 * PORTION_PACKETS);

/**
 * Rings in memory shared with the partition. The partition may write anything into it at any time: packets are copied out before
 * anybody looks at them, and indices and lengths are judged by the addon (ring.c). What is not taken stays in the ring, which
 * stops the partition's side when it is full.
 */
export class RingCarrier implements Carrier {
  readonly kind = 'ring';
  readonly #owner: CarrierOwner;
  readonly #ring: PortRing;
  #refused = false;
  #ended = false;

  /** Answers the question that came on the socket with this descriptor, which the caller closes. Throws when it cannot. */
  constructor(owner: CarrierOwner, socket: number, maxPacket: number) {
    this.#owner = owner;
    this.#ring = PortRing.offer(socket, { longest: maxPacket });
    this.#ring.onBell = () => {
      if (this.#refused) this.#room();
      if (!this.#ring.closed) owner.arrived(this);
    };
    this.#ring.onEnd = () => {
      this.#ended = true;
      owner.arrived(this);
    };
  }

  get fill(): number {
    return this.queuedBytes / this.#ring.bytes;
  }

  get queuedBytes(): number {
    if (this.#ring.queuedBytes >= UNSURE_BYTES) this.#ring.refresh();
    return this.#ring.queuedBytes;
  }

  get waiting(): boolean {
    return this.#ended || this.#ring.broken || this.#ring.waiting;
  }

  transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    if (this.#ring.put(buffer, offset, length)) return true;
    this.#refused = true;
    return false;
  }

  flush(): void {
    this.#ring.flush();
    // Not in the midst of somebody else's batch: it ends the connection.
    if (this.#ring.broken) setImmediate(() => this.#owner.arrived(this));
  }

  take(): boolean {
    const ring = this.#ring;
    if (ring.broken) {
      this.#owner.faulty(this, 'ring-index');
      return false;
    }
    const count = ring.read(portion, index);
    if (ring.oversize > 0) {
      this.#owner.oversize(ring.oversize);
      ring.oversize = 0;
    }
    if (typeof count !== 'number') {
      this.#owner.faulty(this, count);
      return false;
    }
    if (count === 0) {
      if (this.#ended) this.#owner.lost(this, 'the partition ended the connection');
      return false;
    }
    for (let i = 0; i < count; i++) {
      this.#owner.receiver?.receive(portion, index[2 * i]!, index[2 * i + 1]!);
    }
    this.#owner.receiver?.endOfBatch();
    return true;
  }

  end(): void {
    this.#ring.flush();
    this.#ring.close();
  }

  destroy(): void {
    this.#ring.close();
  }

  /** A packet was refused: is there room again? */
  #room(): void {
    this.#ring.refresh();
    if (2 * this.#ring.queuedBytes > this.#ring.bytes) return;
    this.#refused = false;
    this.#owner.receiver?.writable();
  }
}
