import type { Clock, Random } from '../../../common/index.ts';
import type { IpAddress } from '../../wire/index.ts';
import { KeyedHash } from './keyed-hash.ts';
import type { Seq } from './seq.ts';
import { toSeq } from './seq.ts';

/** Initial sequence numbers and timestamp offsets: a clock plus a keyed hash of the connection's name (RFC 6528, RFC 7323 5.4). */
export class IsnGenerator {
  readonly #keyed: KeyedHash;
  readonly #clock: Clock;

  constructor(clock: Clock, random: Random) {
    this.#clock = clock;
    this.#keyed = new KeyedHash(random);
  }

  #hash(
    purpose: number,
    localAddress: IpAddress,
    localPort: number,
    remoteAddress: IpAddress,
    remotePort: number,
  ): number {
    const keyed = this.#keyed.word(purpose).address(localAddress).word(localPort);
    return keyed.address(remoteAddress).word(remotePort).finish();
  }

  /** ISN = M + F(…), M ticking every 4 µs (RFC 6528 section 3). */
  isn(localAddress: IpAddress, localPort: number, remoteAddress: IpAddress, remotePort: number): Seq {
    const ticks = Math.floor(this.#clock.nowMs() * 250);
    return toSeq((ticks % 0x1_0000_0000) + this.#hash(1, localAddress, localPort, remoteAddress, remotePort));
  }

  /** Per connection name, so that a later connection of the same name goes on above the earlier one's timestamps. */
  timestampOffset(
    localAddress: IpAddress,
    localPort: number,
    remoteAddress: IpAddress,
    remotePort: number,
  ): number {
    return this.#hash(2, localAddress, localPort, remoteAddress, remotePort);
  }
}
