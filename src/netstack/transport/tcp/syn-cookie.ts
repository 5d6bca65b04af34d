/**
 * SYN cookies (RFC 4987 section 3.6): when a listener's backlog is full, everything needed to open a connection is put into
 * the SYN-ACK's sequence number, and nothing is kept. The final ACK brings it back.
 *
 *   bits 31 … 27  minute counter, modulo 32      bits 26 … 24  index into MSS_TABLE
 *   bits 23 … 0   keyed hash of the connection's name, the peer's ISN, the counter and the index
 *
 * With timestamps the low six bits of our TSval, which the ACK echoes, carry what else the SYN offered: bits 0 … 3 the
 * window scale (15: none), bit 4 SACK-permitted. Without timestamps both are given up. A cookie is good in the minute
 * in which it was made and the next one, and only while its listener has made one so lately.
 */
import type { Clock, Random } from '../../../common/index.ts';
import type { IpAddress } from '../../wire/index.ts';
import { KeyedHash } from './keyed-hash.ts';
import type { Segment } from './segment.ts';
import type { Seq } from './seq.ts';
import { toSeq } from './seq.ts';

const PERIOD_MS = 60_000;
/** Periods for which a cookie stays good after its own. */
const GRACE_PERIODS = 1;
/** After its last cookie a listener believes cookies for so long. */
export const COOKIE_LIFETIME_MS = PERIOD_MS * (1 + GRACE_PERIODS);
/** The largest that does not exceed the peer's MSS is taken; a peer below the first one gets no cookie. */
const MSS_TABLE = [64, 536, 1220, 1360, 1400, 1440, 1460, 8960] as const;
const NO_SCALE = 15;
const SACK_BIT = 16;
const TS_BITS = 6;
const TS_MASK = (1 << TS_BITS) - 1;

export interface FlowName {
  readonly localAddress: IpAddress;
  readonly localPort: number;
  readonly remoteAddress: IpAddress;
  readonly remotePort: number;
}

export function flowOf(segment: Segment, source: IpAddress, destination: IpAddress): FlowName {
  return {
    localAddress: destination,
    localPort: segment.destinationPort,
    remoteAddress: source,
    remotePort: segment.sourcePort,
  };
}

export class SynCookies {
  readonly #clock: Clock;
  readonly #keyed: KeyedHash;

  constructor(clock: Clock, random: Random) {
    this.#clock = clock;
    this.#keyed = new KeyedHash(random);
  }

  /** The ISN to answer with, or undefined when the peer's MSS is too small to be told. */
  make(flow: FlowName, irs: Seq, peerMss: number): Seq | undefined {
    let index = MSS_TABLE.length - 1;
    while (index >= 0 && MSS_TABLE[index]! > peerMss) index--;
    if (index < 0) return undefined;
    const period = this.#period();
    return toSeq((period % 32) * 0x800_0000 + index * 0x100_0000 + this.#hash(flow, irs, period, index));
  }

  /** The MSS that a cookie carries, or undefined when it is none of ours, or too old. */
  check(flow: FlowName, irs: Seq, cookie: Seq): number | undefined {
    const now = this.#period();
    const age = (now - (cookie >>> 27)) & 31;
    if (age > GRACE_PERIODS || age > now) return undefined;
    const index = (cookie >>> 24) & 7;
    const hash = this.#hash(flow, irs, now - age, index);
    return hash === (cookie & 0xff_ffff) ? MSS_TABLE[index] : undefined;
  }

  #period(): number {
    return Math.floor(this.#clock.nowMs() / PERIOD_MS);
  }

  #hash(flow: FlowName, irs: Seq, period: number, index: number): number {
    const { localAddress, localPort, remoteAddress, remotePort } = flow;
    const keyed = this.#keyed.address(localAddress).word(localPort).address(remoteAddress).word(remotePort);
    return keyed.word(irs).word(period).word(index).finish() >>> 8;
  }
}

/** The timestamp at or below `tsNow` whose low bits tell the options; `windowScale` −1: not offered. */
export function cookieTimestamp(tsNow: number, windowScale: number, sackPermitted: boolean): number {
  const bits = (windowScale < 0 ? NO_SCALE : windowScale) | (sackPermitted ? SACK_BIT : 0);
  const value = ((tsNow & ~TS_MASK) | bits) >>> 0;
  // Never ahead of our clock: PAWS at the peer would drop what follows.
  return ((tsNow - value) | 0) < 0 ? (value - (1 << TS_BITS)) >>> 0 : value;
}

/** Undo of cookieTimestamp. */
export function cookieOptions(tsEcr: number): { windowScale: number; sackPermitted: boolean } {
  const scale = tsEcr & NO_SCALE;
  return { windowScale: scale === NO_SCALE ? -1 : scale, sackPermitted: (tsEcr & SACK_BIT) !== 0 };
}
