/** `up`: the daemon in the foreground, or detached and waited for. */
import { spawn } from 'node:child_process';
import { closeSync, fstatSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { StatusView } from '../../daemon/index.ts';
import { ApiClient } from '../api-client.ts';
import { CliError } from '../cli-error.ts';
import type { ExitCode } from '../exit-codes.ts';
import { EXIT } from '../exit-codes.ts';
import { requireConfigurationFile } from '../run-directory.ts';
import type { Session } from '../session.ts';

const UP_LIMIT_MS = 60_000;

/** JSON with --detach: StatusView. Exit 1 when the daemon is up but a service is not served. */
export async function up(session: Session, options: Readonly<Record<string, unknown>>): Promise<ExitCode> {
  const { loadConfiguration } = await import('../../daemon/configuration/index.ts');
  const configuration = loadConfiguration(requireConfigurationFile(session.options));
  if (options['detach'] === true) return detached(session, configuration);
  const { personLog, runControl } = await import('../../daemon/control/index.ts');
  const { jsonLog } = await import('../../common/index.ts');
  const write = (line: string) => void process.stderr.write(line);
  const log = session.terminal.progress ? personLog(write) : jsonLog(write);
  await runControl({
    configuration,
    log,
    lifeline: options['lifeline'] === true,
    onUp: () => {
      if (!session.quiet && session.terminal.progress)
        session.terminal.err('up; Ctrl-C takes everything down');
    },
  });
  return EXIT.done;
}

async function detached(
  session: Session,
  configuration: { readonly file: string; readonly runDirectory: string; readonly stateDirectory: string },
): Promise<ExitCode> {
  const { file, runDirectory, stateDirectory } = configuration;
  const api = new ApiClient(runDirectory);
  if (await answers(api)) {
    throw new CliError('in-use', `a daemon already runs on ${runDirectory}`, {
      remedy: 'see changeover status, or stop it with changeover down',
    });
  }
  mkdirSync(stateDirectory, { recursive: true, mode: 0o700 });
  const logFile = join(stateDirectory, 'control.log');
  const output = openSync(logFile, 'a', 0o600);
  const logged = fstatSync(output).size;
  const { programFile } = await import('../../common/index.ts');
  const main = programFile(fileURLToPath(new URL('../../daemon/processes/control.ts', import.meta.url)));
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', main, '--config', file], {
    stdio: ['ignore', output, output],
    detached: true,
    cwd: '/',
  });
  closeSync(output);
  child.unref();
  let died = false;
  child.once('exit', () => {
    died = true;
  });
  const untilMs = performance.now() + UP_LIMIT_MS;
  while (!(await answers(api))) {
    if (died || performance.now() > untilMs) throw notUp(logFile, logged, died);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  const view = await api.get<StatusView>('/status');
  session.result(view, () =>
    view.services.map(
      (s) => `${s.name}  ${s.address}  ${s.health?.ok === true ? 'well' : 'not well'}, on ${s.active}`,
    ),
  );
  for (const complaint of view.complaints) session.terminal.err(complaint);
  return view.complaints.length === 0 ? EXIT.done : EXIT.failed;
}

async function answers(api: ApiClient): Promise<boolean> {
  try {
    await api.get('/config');
    return true;
  } catch {
    return false;
  }
}

/** The last error that the daemon logged since it was started is what a person has to know. */
function notUp(logFile: string, from: number, died: boolean): CliError {
  let last: string | undefined;
  let thrown: string | undefined;
  for (const line of readFileSync(logFile).subarray(from).toString('utf8').split('\n')) {
    try {
      const entry = JSON.parse(line) as { level?: string; message?: string };
      if (entry.level === 'error') last = entry.message;
    } catch {
      // Not one of our log lines: what Node says of a program that it could not load.
      if (/Error\b.*: /.test(line)) thrown = line.trim();
    }
  }
  const silent = died
    ? 'the daemon ended without a word'
    : `the daemon is not up after ${UP_LIMIT_MS / 1000} s`;
  return new CliError('not-up', last ?? thrown ?? silent, { remedy: `see ${logFile}` });
}
