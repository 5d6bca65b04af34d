/**
 * What carries the packets of one connection of a port: a stream of frames, or rings in shared memory. The port decides when
 * something is taken; a carrier that is not asked stops its sender.
 */
import type { LinkReceiver } from '../../../netstack/index.ts';

export type CarrierKind = 'stream' | 'ring';

export interface Carrier {
  readonly kind: CarrierKind;
  /** The part of the room that is in use, 0 to 1. */
  readonly fill: number;
  /** Bytes that wait for the partition. */
  readonly queuedBytes: number;
  /** Copies one packet. False: no room, `writable` will follow. */
  transmit(buffer: Uint8Array, offset: number, length: number): boolean;
  flush(): void;
  /** Something has arrived and was not taken yet; if not, `arrived` will be told. */
  readonly waiting: boolean;
  /** Hands a portion of what has arrived to the receiver. False: there was nothing; `arrived` will be told. */
  take(): boolean;
  /** What was flushed still arrives; nothing is received any more. */
  end(): void;
  destroy(): void;
}

/** What a carrier says to its port. */
export interface CarrierOwner {
  readonly receiver: LinkReceiver | undefined;
  /** Something is there to be taken, at once if there is time. */
  arrived(carrier: Carrier): void;
  /** More came behind what waits already: it is taken in the next turn. */
  waits(carrier: Carrier): void;
  /** What came can be no packets: this carrier is of no use any more. */
  faulty(carrier: Carrier, fault: string): void;
  /** Packets longer than the port takes were stepped over. */
  oversize(count: number): void;
  /** The other end is gone, and everything it sent has been taken. */
  lost(carrier: Carrier, reason: string): void;
}
