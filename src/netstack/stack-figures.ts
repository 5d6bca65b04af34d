/** What a stack tells about itself: each connection as it is now, and the counters since it began. Plain values, fit for JSON. */
import type { Interface } from './iface/index.ts';
import type { Stack } from './stack.ts';
import type { TcpConnection } from './transport/tcp/index.ts';
import { formatIpAddress } from './wire/index.ts';

/** Times in milliseconds, sizes in bytes. */
export interface ConnectionFigures {
  readonly local: string;
  readonly remote: string;
  readonly state: string;
  readonly rttMs: number;
  readonly rtoMs: number;
  readonly cwnd: number;
  /** Null: no loss so far. */
  readonly ssthresh: number | null;
  readonly flight: number;
  readonly sndWnd: number;
  readonly rcvWnd: number;
  readonly mss: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly retransmits: number;
  readonly timeouts: number;
  readonly outOfOrder: number;
  readonly outOfWindow: number;
  readonly pawsDropped: number;
  readonly congestion: string;
  readonly softError: string | null;
}

export interface StackFigures {
  /** RFC 3339. */
  readonly time: string;
  readonly connections: readonly ConnectionFigures[];
  /** How many there are in each state, those without an application included. */
  readonly states: Readonly<Record<string, number>>;
  readonly tcp: Readonly<Record<string, number>>;
  readonly ip: { readonly received: number; readonly accepted: number };
  /** Packets not accepted, by reason. */
  readonly drops: Readonly<Record<string, number>>;
}

const SSTHRESH_UNSET = 0x7fffffff;
const tenth = (ms: number) => Math.round(ms * 10) / 10;

function endpoint(address: TcpConnection['localAddress'], port: number): string {
  const text = formatIpAddress(address);
  return text.includes(':') ? `[${text}]:${port}` : `${text}:${port}`;
}

export function connectionFigures(connection: TcpConnection): ConnectionFigures {
  const { status } = connection;
  return {
    local: endpoint(connection.localAddress, connection.localPort),
    remote: endpoint(connection.remoteAddress, connection.remotePort),
    state: status.state,
    rttMs: tenth(status.srttMs),
    rtoMs: tenth(status.rtoMs),
    cwnd: status.cwnd,
    ssthresh: status.ssthresh === SSTHRESH_UNSET ? null : status.ssthresh,
    flight: status.flight,
    sndWnd: status.sndWnd,
    rcvWnd: status.rcvWnd,
    mss: status.effMss,
    bytesSent: connection.bytesSent,
    bytesReceived: connection.bytesReceived,
    retransmits: status.retransmittedSegments,
    timeouts: status.timeouts,
    outOfOrder: status.outOfOrder,
    outOfWindow: status.outOfWindow,
    pawsDropped: status.pawsDropped,
    congestion: status.congestion,
    softError: status.softError ?? null,
  };
}

/** Connections with the most bytes first; counters of all network devices together. */
export function stackFigures(stack: Stack): StackFigures {
  const connections = [...stack.tcp.connections()].map(connectionFigures);
  const sum = (of: (one: Interface) => number) => stack.interfaces.reduce((all, one) => all + of(one), 0);
  const drops: Record<string, number> = {};
  for (const one of stack.interfaces) {
    for (const [reason, count] of Object.entries(one.drops.snapshot())) {
      drops[reason] = (drops[reason] ?? 0) + count;
    }
  }
  connections.sort((a, b) => b.bytesSent + b.bytesReceived - a.bytesSent - a.bytesReceived);
  return {
    time: new Date(Number(stack.clock.wallNs() / 1_000_000n)).toISOString(),
    connections,
    states: stack.tcp.stateCounts(),
    tcp: { ...stack.tcp.counters },
    ip: { received: sum((one) => one.received), accepted: sum((one) => one.accepted) },
    drops,
  };
}
