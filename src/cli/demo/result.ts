/** What the demo prints: one JSON object of a documented shape (docs/cli.md), or the table for a person. */
import type { CutReport, PacketCounts, RunReport, Strategy } from '../../patch/index.ts';
import type { Terminal } from '../terminal.ts';
import type { LoadReport } from './load.ts';

export interface DemoStep {
  readonly run: string;
  readonly name: string;
  readonly figure: string;
  /** Milliseconds since 1970. */
  readonly startedAtMs: number;
  readonly durationMs: number;
}

export interface DemoAct {
  readonly strategy: Strategy;
  readonly run: string;
  readonly versions: { readonly before: string; readonly after: string; readonly afterRollback: string };
  /** The flaw that the patch mends: could it be exploited? */
  readonly flaw: { readonly before: boolean; readonly after: boolean; readonly afterRollback: boolean };
  readonly packets: PacketCounts;
  readonly handedOver: number;
  readonly pauseMs: number;
  readonly forecastPauseMs: number;
  readonly rollbackPauseMs: number;
  /** Acknowledged entries at the time, and how many of them the disk that served then did not have. */
  readonly writes: {
    readonly acknowledged: number;
    readonly missing: number;
    readonly acknowledgedAfterRollback: number;
    readonly missingAfterRollback: number;
  };
  readonly capture: string;
  readonly evidence: string;
  readonly problems: readonly string[];
}

export interface DemoResult {
  readonly strategy: string;
  readonly requests: {
    readonly answered: number;
    readonly failed: number;
    readonly longestGapMs: number;
    readonly medianGapMs: number;
    readonly perSecond: number;
    /** When clients waited longest. */
    readonly gaps: readonly { readonly endedAtMs: number; readonly ms: number }[];
  };
  readonly streams: { readonly completed: number; readonly cut: number };
  readonly writes: { readonly acknowledged: number; readonly missing: number; readonly longestMs: number };
  readonly packets: {
    readonly rewritten: number;
    readonly steered: number;
    readonly held: number;
    readonly rstSuppressed: number;
  };
  readonly versions: { readonly before: string; readonly after: string; readonly afterRollback: string };
  readonly pauseMs: number;
  readonly forecastPauseMs: number;
  readonly steps: readonly DemoStep[];
  readonly evidence: string;
  readonly capture: string;
  readonly acts: readonly DemoAct[];
  /** Empty when everything was as promised. */
  readonly problems: readonly string[];
}

export function actOf(
  report: RunReport,
  seen: Pick<DemoAct, 'versions' | 'flaw' | 'writes' | 'problems'>,
): DemoAct {
  const cut: CutReport | undefined = report.cut;
  return {
    strategy: report.strategy,
    run: report.id,
    ...seen,
    packets: sumPackets([cut?.packets, report.rollback?.packets]),
    handedOver: (cut?.handedOver ?? 0) + (report.rollback?.handedOver ?? 0),
    pauseMs: round(cut?.pauseMs ?? 0),
    forecastPauseMs: round(cut?.forecastPauseMs ?? 0),
    rollbackPauseMs: round(report.rollback?.pauseMs ?? 0),
    capture: report.capture ?? '',
    evidence: report.evidence,
  };
}

function sumPackets(all: readonly (PacketCounts | undefined)[]): PacketCounts {
  const sum = (pick: (p: PacketCounts) => number) =>
    all.reduce((total, p) => total + (p === undefined ? 0 : pick(p)), 0);
  return {
    rewritten: sum((p) => p.rewritten),
    steered: sum((p) => p.steered),
    held: sum((p) => p.held),
    heldDropped: sum((p) => p.heldDropped),
    rstSuppressed: sum((p) => p.rstSuppressed),
  };
}

export function resultOf(
  acts: readonly DemoAct[],
  reports: readonly RunReport[],
  load: LoadReport,
  evidence: string,
  moreProblems: readonly string[],
): DemoResult {
  const packets = sumPackets(acts.map((act) => act.packets));
  const last = acts.at(-1);
  const missing = acts.reduce((n, act) => n + act.writes.missing + act.writes.missingAfterRollback, 0);
  const problems = [...acts.flatMap((act) => act.problems), ...moreProblems];
  if (load.requests.failed > 0) problems.push(`${load.requests.failed} requests failed`, ...load.failures);
  if (load.streams.cut > 0) problems.push(`${load.streams.cut} streams were cut`);
  if (missing > 0) problems.push(`${missing} acknowledged entries are missing`);
  return {
    strategy: acts.map((act) => act.strategy).join('+'),
    requests: { ...load.requests, perSecond: load.perSecond },
    streams: { completed: load.streams.completed, cut: load.streams.cut },
    writes: { acknowledged: load.acknowledged.length, missing, longestMs: load.writeLongestMs },
    packets: {
      rewritten: packets.rewritten,
      steered: packets.steered,
      held: packets.held,
      rstSuppressed: packets.rstSuppressed,
    },
    versions: last?.versions ?? { before: '', after: '', afterRollback: '' },
    pauseMs: Math.max(0, ...acts.map((act) => act.pauseMs)),
    forecastPauseMs: Math.max(0, ...acts.map((act) => act.forecastPauseMs)),
    steps: reports.flatMap((report) =>
      report.steps.map(({ name, figure, startedAtMs, durationMs }) => ({
        run: report.id,
        name,
        figure,
        startedAtMs,
        durationMs: round(durationMs),
      })),
    ),
    evidence,
    capture: last?.capture ?? '',
    acts,
    problems,
  };
}

export function renderResult(result: DemoResult, terminal: Terminal): void {
  const { requests, streams, writes, packets } = result;
  const row = (name: string, value: string) => terminal.out(`  ${name.padEnd(26)} ${value}`);
  terminal.out('');
  terminal.out(terminal.style('bold', `patched and rolled back under load: ${result.strategy}`));
  row('requests answered', `${requests.answered} (${requests.perSecond} per second)`);
  row('requests failed', String(requests.failed));
  row('longest gap of a client', `${requests.longestGapMs} ms (median ${requests.medianGapMs} ms)`);
  row('streams completed / cut', `${streams.completed} / ${streams.cut}`);
  row('writes acknowledged', String(writes.acknowledged));
  row('writes missing on disk', String(writes.missing));
  row('packets rewritten', String(packets.rewritten));
  row('packets steered / held', `${packets.steered} / ${packets.held}`);
  row('RST suppressed', String(packets.rstSuppressed));
  for (const act of result.acts) {
    const { before, after, afterRollback } = act.versions;
    row(
      `${act.strategy}: versions`,
      `${before} → ${after} → ${afterRollback}; flaw ${openText(act.flaw.before)} → ${openText(act.flaw.after)} → ${openText(act.flaw.afterRollback)}`,
    );
    row(
      `${act.strategy}: pause`,
      `${act.pauseMs} ms (forecast ${act.forecastPauseMs} ms), rollback ${act.rollbackPauseMs} ms`,
    );
    row(`${act.strategy}: connections moved`, String(act.handedOver));
  }
  row('evidence', result.evidence);
  row('capture', `wireshark ${result.capture}`);
  for (const problem of result.problems) terminal.out(`  ${terminal.style('red', '✗')} ${problem}`);
  if (result.problems.length === 0) {
    terminal.out(`  ${terminal.style('green', '✓')} nothing failed, nothing is missing`);
  }
}

function openText(open: boolean): string {
  return open ? 'open' : 'closed';
}

function round(ms: number): number {
  return Math.round(ms * 10) / 10;
}
