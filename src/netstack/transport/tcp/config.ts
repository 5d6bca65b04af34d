import type { CongestionName } from './congestion.ts';

/** Limits and times of a stack's TCP. Times in milliseconds, sizes in bytes. */
export interface TcpConfig {
  readonly congestion: CongestionName;
  /** RFC 6928: segments of the initial window. */
  readonly initialWindowSegments: number;
  /** Receive buffer at first and at most (autotuned between them). The maximum also decides the window scale. */
  readonly receiveBuffer: number;
  readonly receiveBufferMax: number;
  /** Send buffer at first and at most (twice cwnd between them). */
  readonly sendBuffer: number;
  readonly sendBufferMax: number;
  /** Out-of-order bytes of all connections together. */
  readonly reassemblyBudget: number;
  /** Offered in SYN: RFC 7323 and RFC 2018. */
  readonly timestamps: boolean;
  readonly windowScaling: boolean;
  readonly sack: boolean;
  /** RFC 4987: a full backlog is answered with cookies; off: the oldest half-open connection makes room. */
  readonly synCookies: boolean;
  /** RFC 9293 MUST-49: time to live and hop limit; 0: the stack's default. */
  readonly ttl: number;
  /** RFC 6298 section 2; its lower bound of 1 s is shortened as every current system does. */
  readonly rtoInitialMs: number;
  readonly rtoMinMs: number;
  readonly rtoMaxMs: number;
  /** RFC 9293 3.8.6.3: below 500 ms. */
  readonly delayedAckMs: number;
  /** RFC 8985: a tail that may be lost is probed before the retransmission timeout. */
  readonly tailLossProbe: boolean;
  /** How long a peer may delay the ACK of a single segment before that is probed. */
  readonly probeAckDelayMs: number;
  /** Retransmissions before giving up (R2 of RFC 9293 3.8.3): of a SYN (MUST-23: 3 minutes and more), of a SYN-ACK, of data. */
  readonly synRetries: number;
  readonly synAckRetries: number;
  readonly dataRetries: number;
  /** TIME-WAIT lasts two of these. */
  readonly mslMs: number;
  /** Connections in TIME-WAIT; the oldest is freed beyond it. */
  readonly timeWaitLimit: number;
  /** FIN-WAIT-2 without an application that could still read. */
  readonly orphanTimeoutMs: number;
  readonly keepAliveIdleMs: number;
  readonly keepAliveIntervalMs: number;
  readonly keepAliveProbes: number;
  /** Connections altogether, whatever their state. */
  readonly connectionLimit: number;
  /** RFC 5961 section 10: challenge ACKs per second, of the stack. */
  readonly challengeAcksPerSecond: number;
  /** Resets per second for segments that belong to nothing. */
  readonly resetsPerSecond: number;
  /** An exported connection keeps swallowing what comes for it for so long. */
  readonly tombstoneMs: number;
}

export const DEFAULT_TCP_CONFIG: TcpConfig = {
  congestion: 'cubic',
  initialWindowSegments: 10,
  receiveBuffer: 512 * 1024,
  receiveBufferMax: 4 * 1024 * 1024,
  sendBuffer: 256 * 1024,
  sendBufferMax: 4 * 1024 * 1024,
  reassemblyBudget: 64 * 1024 * 1024,
  timestamps: true,
  windowScaling: true,
  sack: true,
  synCookies: true,
  ttl: 0,
  rtoInitialMs: 1000,
  rtoMinMs: 200,
  rtoMaxMs: 120_000,
  delayedAckMs: 40,
  tailLossProbe: true,
  probeAckDelayMs: 50,
  synRetries: 7,
  synAckRetries: 5,
  dataRetries: 15,
  mslMs: 30_000,
  timeWaitLimit: 16_384,
  orphanTimeoutMs: 60_000,
  keepAliveIdleMs: 7_200_000,
  keepAliveIntervalMs: 75_000,
  keepAliveProbes: 9,
  connectionLimit: 65_536,
  challengeAcksPerSecond: 1000,
  resetsPerSecond: 1000,
  tombstoneMs: 300_000,
};

export interface ListenOptions {
  /** Half-open connections at a time. */
  readonly backlog?: number;
}
