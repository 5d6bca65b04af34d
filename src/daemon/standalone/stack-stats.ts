/** What `changeover stack --stats` and `changeover network --connections` show, as a table. */
import type { ConnectionFigures, Stack, StackFigures } from '../../netstack/index.ts';
import { stackFigures } from '../../netstack/index.ts';

/** A table longer than a screen helps nobody; JSON has them all. */
const MOST_ROWS = 40;

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
