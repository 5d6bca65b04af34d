/**
 * What the parts of TCP share: time, IP below, the scratch buffer segments are built in, counters, and the calls by which
 * receive.ts, send.ts and timers.ts reach the layer (layer.ts implements it).
 */
import type { Clock, Random } from '../../../common/index.ts';
import type { IpOutput } from '../../iface/index.ts';
import type { TcpConfig } from './config.ts';
import type { TcpError } from './errors.ts';
import type { Tcb } from './tcb.ts';

export const PROTOCOL_TCP = 6;

/** Monotonic counters of one stack. */
export class TcpCounters {
  segmentsIn = 0;
  segmentsOut = 0;
  bytesIn = 0;
  bytesOut = 0;
  retransmits = 0;
  timeouts = 0;
  fastRecoveries = 0;
  tailLossProbes = 0;
  /** Probes of which the peer told that it had the data already. */
  needlessProbes = 0;
  /** Recoveries begun by a probe or by the end of the reordering window. */
  tailRecoveries = 0;
  duplicateAcks = 0;
  outOfOrder = 0;
  outOfWindow = 0;
  reassemblyDropped = 0;
  pawsDropped = 0;
  timestampMissing = 0;
  challengeAcks = 0;
  challengeAcksSuppressed = 0;
  resetsOut = 0;
  resetsIn = 0;
  resetsSuppressed = 0;
  swallowedByTombstone = 0;
  activeOpens = 0;
  passiveOpens = 0;
  failedOpens = 0;
  halfOpenEvicted = 0;
  cookiesSent = 0;
  cookiesTaken = 0;
  cookiesRefused = 0;
  connectionLimitReached = 0;
  timeWaitRecycled = 0;
  persistProbes = 0;
  keepAliveProbes = 0;
  linkFull = 0;
  exported = 0;
  imported = 0;
}

export interface Engine {
  readonly clock: Clock;
  readonly random: Random;
  readonly config: TcpConfig;
  readonly ip: IpOutput;
  readonly counters: TcpCounters;
  /** Segments are built here from HEADROOM on. */
  readonly scratch: Uint8Array;
  /** The connection has output to make or something to tell; done at the end of the batch. */
  touch(tcb: Tcb): void;
  /** The link is full: output goes on at `writable`. */
  waitForLink(tcb: Tcb): void;
  /** Ends the connection: out of the demux, timers off, memory freed, `closed` owed. */
  finish(tcb: Tcb, error: TcpError | undefined): void;
  enterTimeWait(tcb: Tcb): void;
  /** A passive open has reached ESTABLISHED. */
  accept(tcb: Tcb): void;
  /** Whether the stack's budget allows one more challenge ACK. */
  mayChallenge(): boolean;
}
