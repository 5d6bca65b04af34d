/** What `changeover stack --stats` shows: each connection as it is now, and the stack's counters since it began. */
import type { Stack, TcpConnection } from '../../netstack/index.ts';
import { formatIpAddress } from '../../netstack/index.ts';

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
/** A table longer than a screen helps nobody; JSON has them all. */
const MOST_ROWS = 40;

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

/** Connections with the most bytes first. */
export function stackFigures(stack: Stack): StackFigures {
  const connections = [...stack.tcp.connections()].map(connectionFigures);
  connections.sort((a, b) => b.bytesSent + b.bytesReceived - a.bytesSent - a.bytesReceived);
  return {
    time: new Date(Number(stack.clock.wallNs() / 1_000_000n)).toISOString(),
    connections,
    states: stack.tcp.stateCounts(),
    tcp: { ...stack.tcp.counters },
    ip: { received: stack.ip.received, accepted: stack.ip.accepted },
    drops: stack.ip.drops.snapshot(),
  };
}

const COLUMNS: readonly [title: string, value: (figures: ConnectionFigures) => string | number][] = [
  ['local', (c) => c.local],
  ['remote', (c) => c.remote],
  ['state', (c) => c.state],
  ['rtt ms', (c) => c.rttMs.toFixed(1)],
  ['rto ms', (c) => c.rtoMs.toFixed(0)],
  ['cwnd', (c) => c.cwnd],
  ['flight', (c) => c.flight],
  ['snd wnd', (c) => c.sndWnd],
  ['rcv wnd', (c) => c.rcvWnd],
  ['sent', (c) => c.bytesSent],
  ['received', (c) => c.bytesReceived],
  ['again', (c) => c.retransmits],
];
/** The first three are words. */
const LEFT_ALIGNED = 3;

const listed = (counts: Readonly<Record<string, number>>) =>
  Object.entries(counts)
    .filter(([, count]) => count > 0)
    .map(([name, count]) => `${name} ${count}`)
    .join(', ') || 'none';

/** The table, line by line. */
export function statsTable(figures: StackFigures): string[] {
  const shown = figures.connections.slice(0, MOST_ROWS);
  const cells = [
    COLUMNS.map(([title]) => title),
    ...shown.map((connection) => COLUMNS.map(([, value]) => String(value(connection)))),
  ];
  const widths = COLUMNS.map((_, column) => Math.max(...cells.map((row) => row[column]!.length)));
  const lines = cells.map((row) =>
    row
      .map((cell, i) => (i < LEFT_ALIGNED ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)))
      .join('  ')
      .trimEnd(),
  );
  const more = figures.connections.length - shown.length;
  if (more > 0) lines.push(`… and ${more} more`);
  return [
    `${figures.time}  ${figures.connections.length} connections (${listed(figures.states)})`,
    ...lines,
    `tcp: ${listed(figures.tcp)}`,
    `ip: received ${figures.ip.received}, accepted ${figures.ip.accepted}; dropped: ${listed(figures.drops)}`,
  ];
}

export interface StatsOptions {
  readonly print: (line: string) => void;
  /** One JSON object per line instead of the table. */
  readonly json: boolean;
  /** Absent: only on SIGUSR1. */
  readonly everyMs?: number | undefined;
}

/** Prints on SIGUSR1, and periodically if asked. Returns what ends it. */
export function showStats(stack: Stack, options: StatsOptions): () => void {
  const show = () => {
    const figures = stackFigures(stack);
    if (options.json) options.print(JSON.stringify(figures));
    else for (const line of statsTable(figures)) options.print(line);
  };
  const interval = options.everyMs === undefined ? undefined : setInterval(show, options.everyMs);
  interval?.unref();
  process.on('SIGUSR1', show);
  return () => {
    clearInterval(interval);
    process.off('SIGUSR1', show);
  };
}
