import type { PartitionView } from '../../daemon/index.ts';
import type { ExitCode } from '../exit-codes.ts';
import { EXIT } from '../exit-codes.ts';
import { durationText, tableLines } from '../format.ts';
import type { Session } from '../session.ts';

type Options = Readonly<Record<string, unknown>>;

const FOLLOW_MS = 250;

function rows(partitions: readonly PartitionView[]): string[] {
  return tableLines(
    ['partition', 'role', 'service', 'state', 'phase', 'processor', 'memory', 'addresses', 'conn'],
    partitions.map((p) => [
      p.id,
      p.role,
      p.service ?? '',
      p.state + (p.isolated && p.state === 'running' ? ', isolated' : ''),
      p.phase ?? '',
      `${p.processor.cpu}: ${p.processor.sharePercent} %`,
      `${p.memoryMiB} MiB`,
      p.addresses.join(' '),
      p.connections === undefined ? '' : String(p.connections),
    ]),
  );
}

function detail(p: PartitionView): string[] {
  const fields: Record<string, string> = {
    partition: p.id,
    kind: p.kind,
    role: p.service === undefined ? p.role : `${p.role} of ${p.service}`,
    state: p.isolated && p.state === 'running' ? `${p.state}, isolated` : p.state,
    phase: p.phase ?? '',
    pid: p.pid === undefined ? '' : String(p.pid),
    boot: p.bootMs === undefined ? '' : durationText(p.bootMs),
    processor: `${p.processor.sharePercent} % of processor ${p.processor.cpu}`,
    memory: `${p.memoryMiB} MiB`,
    addresses: p.addresses.join(' '),
    connections: p.connections === undefined ? '' : String(p.connections),
    requests: p.requestsInFlight === undefined ? '' : `${p.requestsInFlight} in flight`,
    reason: p.reason ?? '',
  };
  const lines = Object.entries(fields)
    .filter(([, value]) => value !== '')
    .map(([key, value]) => `${key.padEnd(12)} ${value}`);
  for (const disk of p.disks) lines.push(`${'disk'.padEnd(12)} ${disk.role}: ${disk.path}`);
  for (const device of p.network) lines.push(`${'device'.padEnd(12)} ${device.name}: ${device.mac}`);
  for (const note of p.notes) lines.push(`${'note'.padEnd(12)} ${note}`);
  for (const line of p.lastOutput) lines.push(`${'output'.padEnd(12)} ${line}`);
  return lines;
}

const path = (args: readonly string[]) => `/partitions/${encodeURIComponent(args[0] ?? '')}`;

/** JSON: {partitions: PartitionView[]}. */
async function list(session: Session): Promise<ExitCode> {
  const answer = await (await session.api()).get<{ partitions: PartitionView[] }>('/partitions');
  session.result(answer, () => rows(answer.partitions));
  return EXIT.done;
}

/** JSON: PartitionView. */
async function show(session: Session, args: readonly string[]): Promise<ExitCode> {
  const view = await (await session.api()).get<PartitionView>(path(args));
  session.result(view, () => detail(view));
  return EXIT.done;
}

async function start(session: Session, args: readonly string[]): Promise<ExitCode> {
  const view = await (await session.api()).post<PartitionView>(`${path(args)}/start`);
  session.result(view, () => detail(view));
  return EXIT.done;
}

async function stop(session: Session, args: readonly string[], options: Options): Promise<ExitCode> {
  const body = { force: options['force'] === true };
  const view = await (await session.api()).post<PartitionView>(`${path(args)}/stop`, body);
  session.result(view, () => detail(view));
  return EXIT.done;
}

interface ConsoleText {
  readonly text: string;
  readonly end: number;
}

/** JSON: {text, end}; with --follow the text as it comes. */
async function consoleText(session: Session, args: readonly string[], options: Options): Promise<ExitCode> {
  const api = await session.api();
  const bytes = options['bytes'] === undefined ? '' : `?bytes=${String(options['bytes'])}`;
  let shown = await api.get<ConsoleText>(`${path(args)}/console${bytes}`);
  if (options['follow'] !== true) {
    session.result(shown, () => (shown.text === '' ? [] : [shown.text.replace(/\n$/, '')]));
    return EXIT.done;
  }
  process.stdout.write(shown.text);
  let interrupted = false;
  process.once('SIGINT', () => {
    interrupted = true;
  });
  while (!interrupted) {
    await new Promise((resolve) => setTimeout(resolve, FOLLOW_MS));
    shown = await api.get<ConsoleText>(`${path(args)}/console?from=${shown.end}`);
    if (shown.text !== '') process.stdout.write(shown.text);
  }
  return EXIT.done;
}

export const partitionCommands = { list, show, start, stop, console: consoleText };
