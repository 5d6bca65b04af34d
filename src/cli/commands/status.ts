import type { StatusView } from '../../daemon/index.ts';
import type { ExitCode } from '../exit-codes.ts';
import { EXIT } from '../exit-codes.ts';
import { durationText, tableLines, timeText } from '../format.ts';
import type { Session } from '../session.ts';
import type { Terminal } from '../terminal.ts';

function statusLines(status: StatusView, t: Terminal, nowMs: number): string[] {
  const process = (name: 'mux' | 'block') => {
    const { state, pid, restarts } = status.processes[name];
    const again = restarts === 0 ? '' : `, restarted ${restarts}×`;
    const text = `${name} ${state}${pid === undefined ? '' : ` (${pid})`}${again}`;
    return state === 'up' ? text : t.style('red', text);
  };
  const lines = [
    `${t.style('bold', 'changeover')} ${status.version}  up ${durationText(nowMs - status.startedAtMs)}, pid ${status.pid}  ${process('mux')}  ${process('block')}`,
    `uplinks  ${status.uplinks.map((u) => `${u.name}${u.hostAddress === undefined ? '' : ` (host ${u.hostAddress})`}`).join(', ')}`,
    '',
    ...tableLines(
      ['service', 'address', 'active', 'since', 'health'],
      status.services.map((s) => [
        s.name,
        [s.address, s.address6].filter((address) => address !== undefined).join(' '),
        s.active,
        s.sinceMs === undefined ? 'the beginning' : timeText(s.sinceMs),
        s.health === undefined
          ? t.style('red', 'not served')
          : t.style(
              s.health.ok ? 'green' : 'red',
              `${s.health.ok ? 'well' : 'not well'}: ${s.health.detail}, ${durationText(s.health.durationMs)}`,
            ),
      ]),
    ),
    '',
    ...tableLines(
      ['partition', 'role', 'state', 'phase', 'addresses', 'connections', 'in flight', 'disks'],
      status.partitions.map((p) => [
        p.id,
        p.role === 'active' ? t.style('bold', p.role) : p.role,
        p.state === 'failed'
          ? t.style('red', `failed: ${p.reason ?? ''}`)
          : p.state + (p.isolated && p.state === 'running' ? ', isolated' : ''),
        p.phase ?? '',
        p.addresses.join(' '),
        p.connections === undefined ? '' : String(p.connections),
        p.requestsInFlight === undefined ? '' : String(p.requestsInFlight),
        p.disks
          .filter((d) => p.state === 'running' && (d.role === 'system' || p.applicationDisk))
          .map((d) => d.role)
          .join(' '),
      ]),
    ),
  ];
  for (const { name, recorded } of status.services) {
    if (recorded !== undefined)
      lines.push('', `rehearsal  ${name}: ${recorded} requests of clients recorded`);
  }
  const { run } = status;
  if (run !== undefined) {
    const step = run.steps.findLast((s) => s.state === 'running');
    const doing = step === undefined ? '' : `, ${step.name} for ${durationText(step.durationMs)}`;
    lines.push(
      '',
      `run ${run.id}  ${t.style('bold', run.phase)}${doing}  ${run.from} → ${run.to}, ${run.strategy}`,
    );
    if (run.phase === 'probation') lines.push('         next: changeover commit, or changeover rollback');
  }
  for (const file of status.captures) lines.push(`capture  ${file}`);
  for (const complaint of status.complaints.slice(-5)) lines.push(t.style('yellow', `! ${complaint}`));
  return lines;
}

/** JSON: StatusView. */
export async function status(session: Session): Promise<ExitCode> {
  const view = await (await session.api()).get<StatusView>('/status');
  session.result(view, () => statusLines(view, session.terminal, Date.now()));
  return EXIT.done;
}
