import type { Clock } from '../../common/index.ts';
import { copyBytes } from '../wire/index.ts';

const LIMIT = 256;

/** Packets from us to ourselves: they take no link, and come back at the clock's next moment. */
export class LocalPackets {
  readonly #clock: Clock;
  readonly #deliver: (packets: readonly Uint8Array[]) => void;
  #packets: Uint8Array[] = [];

  constructor(clock: Clock, deliver: (packets: readonly Uint8Array[]) => void) {
    this.#clock = clock;
    this.#deliver = deliver;
  }

  /** Copies the IP packet at buffer[at, at + length); false when too many are under way. */
  add(buffer: Uint8Array, at: number, length: number): boolean {
    if (this.#packets.length >= LIMIT) return false;
    this.#packets.push(copyBytes(buffer, at, length));
    if (this.#packets.length === 1) {
      this.#clock.after(0, () => {
        const packets = this.#packets;
        this.#packets = [];
        this.#deliver(packets);
      });
    }
    return true;
  }
}
