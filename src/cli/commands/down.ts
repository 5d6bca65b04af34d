import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { codeOf } from '../../common/index.ts';
import { CliError } from '../cli-error.ts';
import type { ExitCode } from '../exit-codes.ts';
import { EXIT } from '../exit-codes.ts';
import type { Session } from '../session.ts';

const STOP_LIMIT_MS = 60_000;

/** JSON: {runDirectory, stopped: true}. Returns when the daemon is gone. */
export async function down(session: Session, options: Readonly<Record<string, unknown>>): Promise<ExitCode> {
  const api = await session.api();
  let pid: number;
  try {
    ({ pid } = await api.get<{ pid: number }>('/status'));
  } catch (error) {
    if (codeOf(error) === 'no-daemon' && existsSync(join(api.runDirectory, 'mux.pid'))) {
      throw new CliError('no-daemon', `the daemon on ${api.runDirectory} ended without taking things down`, {
        remedy: 'changeover up --detach adopts what still runs, then changeover down ends it',
        cause: error,
      });
    }
    throw error;
  }
  await api.post('/shutdown', { keepRunning: options['keepRunning'] === true });
  const untilMs = performance.now() + STOP_LIMIT_MS;
  while (alive(pid) || existsSync(join(api.runDirectory, 'api.sock'))) {
    if (performance.now() > untilMs) {
      throw new CliError(
        'timeout',
        `the daemon (process ${pid}) still runs after ${STOP_LIMIT_MS / 1000} s`,
        {
          remedy: `see its log, or end it with kill ${pid}`,
        },
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  session.result({ runDirectory: api.runDirectory, stopped: true }, () => []);
  return EXIT.done;
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as { code?: string }).code === 'EPERM';
  }
}
