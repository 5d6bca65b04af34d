import { resolve } from 'node:path';
import type { ExitCode } from '../exit-codes.ts';
import { EXIT } from '../exit-codes.ts';
import { bytesText } from '../format.ts';
import type { Session } from '../session.ts';

interface Stopped {
  readonly file: string;
  readonly packets: number;
  readonly bytes: number;
  readonly dropped: number;
}

/** JSON: {file}. */
async function start(
  session: Session,
  args: readonly string[],
  options: Readonly<Record<string, unknown>>,
): Promise<ExitCode> {
  const api = await session.api();
  const { port, snapLength } = options;
  const started = await api.post<{ file: string }>('/captures', {
    ...(args[0] === undefined ? {} : { file: resolve(args[0]) }),
    ...(port === undefined ? {} : { ports: port }),
    ...(snapLength === undefined ? {} : { snapLength }),
  });
  session.result(started, () => [started.file]);
  return EXIT.done;
}

/** JSON: {captures: [{file, packets, bytes, dropped}]}. */
async function stop(session: Session, args: readonly string[]): Promise<ExitCode> {
  const api = await session.api();
  const body = args[0] === undefined ? {} : { file: resolve(args[0]) };
  const stopped = await api.post<{ captures: Stopped[] }>('/captures/stop', body);
  session.result(stopped, () =>
    stopped.captures.map(
      ({ file, packets, bytes, dropped }) =>
        `${file}  ${packets} packets, ${bytesText(bytes)}${dropped > 0 ? `, ${dropped} not written` : ''}`,
    ),
  );
  return EXIT.done;
}

/** JSON: {file, packets, bytes}. */
async function history(
  session: Session,
  args: readonly string[],
  options: Readonly<Record<string, unknown>>,
): Promise<ExitCode> {
  const api = await session.api();
  const { port, last } = options;
  const written = await api.post<Omit<Stopped, 'dropped'>>('/captures/history', {
    ...(args[0] === undefined ? {} : { file: resolve(args[0]) }),
    ...(port === undefined ? {} : { ports: port }),
    ...(last === undefined ? {} : { lastMs: Number(last) * 1000 }),
  });
  session.result(written, () => [`${written.file}  ${written.packets} packets, ${bytesText(written.bytes)}`]);
  return EXIT.done;
}

export const captureCommands = { start, stop, history };
