/** A run for a person to read. */
import type { RunView } from '../daemon/index.ts';
import { bytesText, durationText, tableLines, timeText } from './format.ts';
import type { Terminal } from './terminal.ts';

type Move = NonNullable<RunView['cut']>;

function moveLines(title: string, move: Move): string[] {
  const { packets } = move;
  const lines = [
    `${title}  ${move.from} → ${move.to} at ${timeText(move.atMs)}, strategy ${move.strategy}`,
    `  pause of new requests   ${durationText(move.pauseMs)} (forecast ${durationText(move.forecastPauseMs)})`,
    `  connections             ${move.handedOver} handed over, ${move.draining} finished by ${move.from}`,
    `  packets                 ${packets.held} held, ${packets.steered} steered, ${packets.rewritten} rewritten, ${packets.heldDropped} of the held dropped, ${packets.rstSuppressed} RST suppressed`,
    `  last delta of the disk  ${bytesText(Number(move.deltaBytes))}`,
  ];
  if (move.announced !== undefined) {
    const { sent, arrived, readdressed, moved } = move.announced;
    const traffic = moved ? 'traffic has moved' : 'no traffic was seen to move';
    lines.push(
      `  announcements           ${sent}, ${traffic} (${arrived} packets came to it, ${readdressed} were directed)`,
    );
  }
  if (move.abandoned.length > 0) lines.push(`  cut off at the deadline ${move.abandoned.join(', ')}`);
  return lines;
}

/** What was found out beside the steps: rehearsal, plan of a dry run, what the copy does not have. */
function foundLines(run: RunView): string[] {
  const lines: string[] = [];
  const { rehearsal, planned, systemChanges } = run;
  if (rehearsal !== undefined) {
    const { requests, same, differences, recorded, notRehearsed } = rehearsal;
    lines.push(`rehearsal ${notRehearsed ?? `${same} of ${requests} requests answered as by ${run.from}`}`);
    if (recorded !== undefined && notRehearsed === undefined) {
      const of = (outcome: string) => recorded.filter((one) => one.outcome === outcome).length;
      lines.push(
        `  recorded of clients     ${recorded.length}: ${of('same')} the same, ${of('differs')} otherwise, ${of('changes')} not even the same of ${run.from} twice, ${of('unanswered')} without an answer`,
      );
    }
    for (const d of differences) {
      lines.push(`  ${d.request}: ${d.what} of ${run.to} ${d.standby}, of ${run.from} ${d.active}`);
    }
  }
  if (planned !== undefined) {
    const forecast =
      run.forecastPauseMs === undefined ? '' : `, pause forecast ${durationText(run.forecastPauseMs)}`;
    lines.push(`the cut would take these steps${forecast}:`);
    for (const step of planned) lines.push(`  ${step.name}${step.figure === '' ? '' : ` (${step.figure})`}`);
  }
  if (systemChanges !== undefined) {
    const { partition, files, more, carried, reason } = systemChanges;
    const what = reason ?? (files.length === 0 ? 'none' : `${files.length}${more ? ' and more' : ''}`);
    lines.push(`files of ${partition}'s system disk written after its cut: ${what}`);
    for (const { path, size } of files) {
      lines.push(`  ${path} (${bytesText(size)})${carried.includes(path) ? ', carried' : ''}`);
    }
  }
  return lines;
}

export function reportLines(run: RunView, terminal: Terminal): string[] {
  const good = run.phase === 'probation' || run.phase === 'committed' || run.phase === 'ready';
  const lines = [
    `${terminal.style('bold', `run ${run.id}`)}  ${terminal.style(good ? 'green' : 'yellow', run.phase)}`,
    `service   ${run.service} (${run.address}), ${run.from} → ${run.to}`,
    `strategy  ${run.strategy}${run.procedure === undefined ? '' : ` by ${run.procedure}`}: ${run.strategyReason}`,
    `started   ${timeText(run.startedAtMs)}`,
  ];
  if (run.patches.length > 0) lines.push(`patches   ${run.patches.join(', ')}`);
  for (const patch of run.patchResults) {
    lines.push(`  ${patch.ok ? 'ok    ' : 'failed'}  ${patch.file}`);
  }
  if (run.reason !== undefined) lines.push(`${terminal.style('red', 'reason')}    ${run.reason}`);
  if (run.error !== undefined && run.error.message !== run.reason) {
    lines.push(`${terminal.style('red', 'error')}     ${run.error.message}`);
  }
  for (const line of foundLines(run)) lines.push(line);
  for (const notice of run.notices) lines.push(`${terminal.style('yellow', 'notice')}    ${notice}`);
  lines.push('');
  lines.push(
    ...tableLines(
      ['step', 'figure', 'state', 'took', 'remark'],
      run.steps.map((s) => [s.name, s.figure, s.state, durationText(s.durationMs), s.reason ?? '']),
    ),
  );
  if (run.cut !== undefined) lines.push('', ...moveLines('cut', run.cut));
  if (run.rollback !== undefined) lines.push('', ...moveLines('rollback', run.rollback));
  lines.push('', `evidence  ${run.evidence}`);
  if (run.capture !== undefined) lines.push(`capture   wireshark ${run.capture}`);
  return lines;
}
