import { createHash } from 'node:crypto';
import type { Clock, Random } from '../../../common/index.ts';
import type { IpAddress } from '../../wire/index.ts';
import type { Seq } from './seq.ts';
import { toSeq } from './seq.ts';

/** Initial sequence numbers and timestamp offsets: a clock plus a keyed hash of the connection's name (RFC 6528, RFC 7323 5.4). */
export class IsnGenerator {
  readonly #secret = new Uint8Array(16);
  readonly #clock: Clock;

  constructor(clock: Clock, random: Random) {
    this.#clock = clock;
    random.fill(this.#secret);
  }

  #hash(
    purpose: number,
    localAddress: IpAddress,
    localPort: number,
    remoteAddress: IpAddress,
    remotePort: number,
  ): number {
    return createHash('sha1')
      .update(this.#secret)
      .update(`${purpose} ${localAddress} ${localPort} ${remoteAddress} ${remotePort}`)
      .digest()
      .readUInt32LE(0);
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
