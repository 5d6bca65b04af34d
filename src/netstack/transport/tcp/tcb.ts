/**
 * Transmission control block: all state of one connection (RFC 9293 3.3.1), with the RFC's names. It has no behaviour of
 * its own beyond small derived values; receive.ts, send.ts, timers.ts and close.ts act on it. What the application sees of
 * it is connection.ts.
 */
import type { Timer } from '../../../common/index.ts';
import type { IpAddress } from '../../wire/index.ts';
import type { TcpConfig } from './config.ts';
import type { CongestionControl } from './congestion.ts';
import { congestionControl } from './congestion.ts';
import type { TcpError } from './errors.ts';
import type { Listener } from './listen.ts';
import type { ReassemblyBudget } from './reassembly.ts';
import { Reassembly } from './reassembly.ts';
import type { Slab } from './receive-buffer.ts';
import { ReceiveQueue } from './receive-buffer.ts';
import { RttEstimator } from './rtt.ts';
import { SackScoreboard } from './sack.ts';
import { SendBuffer } from './send-buffer.ts';
import type { Seq } from './seq.ts';
import { seqDiff, toSeq } from './seq.ts';

/** RFC 9293 3.3.2. Ordered so that comparisons read naturally: `state >= STATE.ESTABLISHED` is "synchronized". */
export const STATE = {
  CLOSED: 0,
  SYN_SENT: 1,
  SYN_RECEIVED: 2,
  ESTABLISHED: 3,
  FIN_WAIT_1: 4,
  FIN_WAIT_2: 5,
  CLOSE_WAIT: 6,
  CLOSING: 7,
  LAST_ACK: 8,
  TIME_WAIT: 9,
  /** Exported to another stack: swallows everything, says nothing. Not a state of the RFC. */
  TOMBSTONE: 10,
} as const;
export type State = (typeof STATE)[keyof typeof STATE];

export const STATE_NAMES = [
  'CLOSED',
  'SYN-SENT',
  'SYN-RECEIVED',
  'ESTABLISHED',
  'FIN-WAIT-1',
  'FIN-WAIT-2',
  'CLOSE-WAIT',
  'CLOSING',
  'LAST-ACK',
  'TIME-WAIT',
  'TOMBSTONE',
] as const;
export type StateName = (typeof STATE_NAMES)[number];

/** What a connection tells its owner. Calls come from the end of a received batch or a timer, never from inside a call. */
export interface TcpHandler {
  /** An active open has reached ESTABLISHED. */
  connected(): void;
  /** `read` has something, or the peer's FIN has been reached (`remoteClosed`). */
  readable(): void;
  /** A `write` had gone beyond the send buffer's limit; there is room again. */
  writable(): void;
  /** The peer has marked data as urgent, or moved the mark on: see TcpConnection.urgentBytes. */
  urgent?(): void;
  /** The connection is over: `error` says why, undefined when both directions were closed in order. Last call. */
  closed(error: TcpError | undefined): void;
}

export const NO_HANDLER: TcpHandler = {
  connected: () => {},
  readable: () => {},
  writable: () => {},
  closed: () => {},
};

/** Loss recovery of the sender. */
export const RECOVERY = {
  NONE: 0,
  /** RFC 6675 or, without SACK, RFC 6582. */
  FAST: 1,
  /** After the retransmission timer: slow start from sndUna (RFC 5681 3.1). */
  TIMEOUT: 2,
} as const;

export const NEVER = Number.POSITIVE_INFINITY;

export interface TcbParts {
  readonly config: TcpConfig;
  readonly slab: Slab;
  readonly budget: ReassemblyBudget;
}

export class Tcb {
  state: State = STATE.CLOSED;
  localAddress: IpAddress;
  readonly localPort: number;
  readonly remoteAddress: IpAddress;
  readonly remotePort: number;
  /** Next of the same port pair, see demux.ts. */
  nextInBucket: Tcb | undefined = undefined;
  handler: TcpHandler = NO_HANDLER;
  /** Opened by a SYN from outside; who accepts it. */
  listener: Listener | undefined = undefined;

  // Send sequence variables.
  iss: Seq = toSeq(0);
  sndUna: Seq = toSeq(0);
  sndNxt: Seq = toSeq(0);
  /** Highest sndNxt so far: below it everything is a retransmission. */
  sndMax: Seq = toSeq(0);
  /** Window the peer offers from sndUna on, scaled. */
  sndWnd = 0;
  sndWl1: Seq = toSeq(0);
  sndWl2: Seq = toSeq(0);
  /** Largest window ever offered (SWS avoidance, RFC 5961's range of old ACKs). */
  maxSndWnd = 0;
  /** Sequence number of the first byte in `sendBuffer`. */
  sndBufSeq: Seq = toSeq(0);
  readonly sendBuffer: SendBuffer;
  /** The application has nothing more to send; FIN follows the last byte. */
  finQueued = false;
  finSent = false;
  finAcked = false;
  /** A write went beyond the limit; `writable` is owed. */
  writeBlocked = false;
  /** SND.UP, when sendsUrgent: sequence number behind what was written as urgent. */
  sndUp: Seq = toSeq(0);
  sendsUrgent = false;
  noDelay = false;

  // Receive sequence variables.
  irs: Seq = toSeq(0);
  rcvNxt: Seq = toSeq(0);
  /** Right edge of the window as advertised; never moves left. */
  rcvAdv: Seq = toSeq(0);
  readonly receiveQueue: ReceiveQueue;
  readonly reassembly: Reassembly;
  /** Receive buffer in bytes, autotuned. */
  rcvBuf: number;
  /** The peer's FIN has been received in order. */
  remoteFin = false;
  /** FIN seen beyond a gap: its sequence number. */
  finPending = false;
  finSeq: Seq = toSeq(0);
  /** The application has gone (close): data that still comes is answered with RST. */
  orphan = false;
  /** RCV.UP, when hasUrgent: sequence number behind the urgent data. */
  rcvUp: Seq = toSeq(0);
  hasUrgent = false;
  /** Received bytes stay here, see freeze. */
  frozen = false;

  // Options agreed on.
  /** MSS the peer announced. */
  peerMss = 536;
  /** MSS we announced. */
  localMss = 536;
  /** Payload bytes of a full segment, options subtracted (RFC 6691). */
  effMss = 536;
  /** Largest payload of one output; effMss where the link does not segment. */
  maxPayload = 536;
  /** Both sides have sent the window scale option. */
  scaling = false;
  sndScale = 0;
  rcvScale = 0;
  sackPermitted = false;
  timestamps = false;
  tsOffset = 0;
  tsRecent = 0;
  /** When tsRecent was taken, ms. */
  tsRecentAtMs = 0;
  lastAckSent: Seq = toSeq(0);

  // Acknowledging.
  /** An ACK is to leave with the next output. */
  ackNow = false;
  /** Octets received since the last ACK. */
  unackedBytes = 0;
  delayedAckAtMs = NEVER;
  lastChallengeMs = Number.NEGATIVE_INFINITY;

  // Congestion and loss.
  readonly congestion: CongestionControl;
  readonly rtt: RttEstimator;
  readonly sack = new SackScoreboard();
  recovery: 0 | 1 | 2 = RECOVERY.NONE;
  /** Recovery ends when this is acknowledged (RecoveryPoint, RFC 6675; recover, RFC 6582). */
  recover: Seq = toSeq(0);
  highRxt: Seq = toSeq(0);
  rescueRxt = false;
  dupAcks = 0;
  /** NewReno's inflation of cwnd by duplicate ACKs. */
  inflation = 0;
  /** Segment being timed: acknowledged when sndUna passes rttSeq; NEVER = none. */
  rttSeq: Seq = toSeq(0);
  rttStartMs = NEVER;
  /** cwnd was what held output back. */
  cwndLimited = false;
  lastSendMs = 0;

  // Tail loss (tail-loss.ts): one probe at a time; tlpEndSeq is sndMax when it left.
  tlpOut = false;
  tlpRetransmitted = false;
  tlpEndSeq: Seq = toSeq(0);
  probeIsReordering = false;

  // Timers: due times on the clock in ms, NEVER = off; one real timer serves all (timers.ts).
  rtoAtMs = NEVER;
  persistAtMs = NEVER;
  probeAtMs = NEVER;
  keepAliveAtMs = NEVER;
  timeWaitAtMs = NEVER;
  userTimeoutAtMs = NEVER;
  timer: Timer | undefined = undefined;
  timerAtMs = NEVER;
  retransmits = 0;
  persistProbes = 0;
  keepAliveProbes = 0;
  keepAliveIdleMs = 0;
  keepAliveIntervalMs = 0;
  /** 0 = only the retransmission limit. */
  userTimeoutMs = 0;
  lastReceiveMs = 0;
  /** Why it will have failed if nothing changes (ICMP errors of RFC 5461's soft kind). */
  softError: TcpError | undefined = undefined;

  // Owed to the handler, delivered by layer.ts.
  dirty = false;
  owesAccept = false;
  owesConnected = false;
  owesReadable = false;
  owesWritable = false;
  owesUrgent = false;
  owesClosed = false;
  error: TcpError | undefined = undefined;

  bytesReceived = 0;
  bytesWritten = 0;
  bytesSent = 0;
  retransmittedSegments = 0;
  timeouts = 0;
  outOfOrder = 0;
  outOfWindow = 0;
  pawsDropped = 0;
  // Receive buffer autotuning: bytes the application took in the current round trip.
  tuneBytes = 0;
  tuneStartMs = 0;

  constructor(
    parts: TcbParts,
    localAddress: IpAddress,
    localPort: number,
    remoteAddress: IpAddress,
    remotePort: number,
  ) {
    const { config } = parts;
    this.localAddress = localAddress;
    this.localPort = localPort;
    this.remoteAddress = remoteAddress;
    this.remotePort = remotePort;
    this.sendBuffer = new SendBuffer(config.sendBuffer);
    this.receiveQueue = new ReceiveQueue(parts.slab);
    this.reassembly = new Reassembly(parts.budget);
    this.rcvBuf = config.receiveBuffer;
    this.congestion = congestionControl(config.congestion, 0);
    this.rtt = new RttEstimator(config.rtoInitialMs, config.rtoMinMs, config.rtoMaxMs);
  }

  /** Bytes of receive buffer not taken. */
  get rcvSpace(): number {
    return Math.max(0, this.rcvBuf - this.receiveQueue.length);
  }

  /** RCV.WND as the peer knows it. */
  get rcvWnd(): number {
    return Math.max(0, seqDiff(this.rcvAdv, this.rcvNxt));
  }

  /** Octets sent and not cumulatively acknowledged. */
  get flight(): number {
    return seqDiff(this.sndMax, this.sndUna);
  }

  /** Whether the handler is to be told anything. */
  get owes(): boolean {
    return (
      this.owesReadable ||
      this.owesWritable ||
      this.owesClosed ||
      this.owesConnected ||
      this.owesAccept ||
      this.owesUrgent
    );
  }

  get synchronized(): boolean {
    return this.state >= STATE.ESTABLISHED && this.state <= STATE.TIME_WAIT;
  }
}
