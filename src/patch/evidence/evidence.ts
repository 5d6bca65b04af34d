/** The evidence folder of a run: `report.json`, `report.txt`, `timeline.txt`, `timeline.html`, `cut.pcapng`, `rollback.pcapng`. */
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { JournalEntry } from '../journal.ts';
import type { CutReport, RunReport } from '../run/record.ts';

export function prepareEvidence(directory: string): void {
  mkdirSync(directory, { recursive: true, mode: 0o750 });
}

/** `what`: `cut` or `rollback`. */
export function capturePath(directory: string, what: string): string {
  return join(directory, `${what}.pcapng`);
}

/** Replaces the report files as a whole, so that a reader never sees half of one. */
export function writeEvidence(report: RunReport, journal: readonly JournalEntry[]): void {
  put(report.evidence, 'report.json', `${JSON.stringify(report, null, 2)}\n`);
  put(report.evidence, 'report.txt', renderReport(report));
  put(report.evidence, 'timeline.txt', renderTimeline(journal));
}

/** Replaces a file of the folder as a whole. */
export function put(directory: string, name: string, text: string): void {
  const path = join(directory, name);
  writeFileSync(`${path}.new`, text);
  renameSync(`${path}.new`, path);
}

function renderTimeline(journal: readonly JournalEntry[]): string {
  const startMs = journal[0]?.atMs ?? 0;
  return journal
    .map(
      (e) =>
        `${new Date(e.atMs).toISOString()}  +${String(e.atMs - startMs).padStart(7)} ms  ${e.kind.padEnd(11)} ${e.name}`,
    )
    .concat('')
    .join('\n');
}

/** The report for a person. */
export function renderReport(report: RunReport): string {
  const lines = [
    `run ${report.id}: ${report.service}, ${report.from} → ${report.to}, ${report.phase}`,
    `strategy ${report.strategy}${report.procedure === undefined ? '' : ` by ${report.procedure}`}: ${report.strategyReason}`,
    `patches: ${report.patches.join(', ') || 'none'}`,
    ...report.patchResults.map((r) => `  ${r.file}: ${r.ok ? 'applied' : 'FAILED'} ${r.output.trim()}`),
    ...renderFound(report),
    ...report.notices.map((notice) => `notice: ${notice}`),
    ...(report.reason === undefined ? [] : [`reason: ${report.reason}`]),
    '',
    'step                         figure      ms  state',
    ...report.steps.map(
      (s) =>
        `${s.name.padEnd(28)} ${s.figure.padEnd(10)} ${s.durationMs.toFixed(1).padStart(7)}  ${s.state}${s.reason === undefined ? '' : `: ${s.reason}`}`,
    ),
    ...(report.cut === undefined ? [] : ['', ...renderCut('cut', report.cut)]),
    ...(report.rollback === undefined ? [] : ['', ...renderCut('rollback', report.rollback)]),
    ...Object.entries(report.hashes).map(([disk, sha]) => `sha256 at the cut  ${disk.padEnd(20)} ${sha}`),
    '',
  ];
  return lines.join('\n');
}

function renderFound(report: RunReport): string[] {
  const { rehearsal, planned = [], systemChanges } = report;
  const lines: string[] = [];
  if (rehearsal !== undefined) {
    lines.push(
      `rehearsal: ${rehearsal.notRehearsed ?? `${rehearsal.same} of ${rehearsal.requests} requests answered alike`}`,
      ...rehearsal.differences.map(
        (d) => `  ${d.request}: ${d.what}: active ${d.active}, standby ${d.standby}`,
      ),
    );
  }
  if (planned.length > 0) lines.push('the cut would take these steps:');
  lines.push(...planned.map(({ name, figure }) => `  ${name.padEnd(28)} ${figure}`));
  if (systemChanges !== undefined) {
    const { partition, sinceMs, files, more, carried, reason } = systemChanges;
    const since = new Date(sinceMs).toISOString();
    lines.push(
      `written to the system disk of ${partition} since ${since}: ${reason ?? `${files.length} files${more ? ' and more' : ''}`}`,
      ...files.map(
        ({ path, size }) => `  ${path} ${size} bytes${carried.includes(path) ? ' (carried)' : ''}`,
      ),
    );
  }
  return lines;
}

function renderCut(title: string, cut: CutReport): string[] {
  return [
    `${title} ${cut.from} → ${cut.to} by ${cut.strategy} at ${new Date(cut.atMs).toISOString()}`,
    `  pause ${cut.pauseMs.toFixed(1)} ms (forecast ${cut.forecastPauseMs.toFixed(1)} ms), last delta ${cut.deltaBytes} bytes`,
    `  connections handed over ${cut.handedOver}, finished by ${cut.from} ${cut.draining}, abandoned ${cut.abandoned.length}`,
    ...(cut.announced === undefined
      ? []
      : [
          `  announcements ${cut.announced.sent}, traffic ${cut.announced.moved ? 'moved' : 'not seen to move'}: ${cut.announced.arrived} packets to the new hardware address, ${cut.announced.readdressed} directed`,
        ]),
    ...cut.abandoned.map((flow) => `    abandoned ${flow}`),
    `  packets rewritten ${cut.packets.rewritten}, steered ${cut.packets.steered}, held ${cut.packets.held} (dropped ${cut.packets.heldDropped}), RST suppressed ${cut.packets.rstSuppressed}`,
  ];
}
