/** Runs: begin one or take one up, follow it, say how it ended. */
import type { RunView } from '../../daemon/index.ts';
import type { ApiClient } from '../api-client.ts';
import { CliError } from '../cli-error.ts';
import type { ExitCode } from '../exit-codes.ts';
import { EXIT } from '../exit-codes.ts';
import { tableLines, timeText } from '../format.ts';
import type { StepView } from '../progress.ts';
import { ProgressView } from '../progress.ts';
import { reportLines } from '../report-text.ts';
import type { Session } from '../session.ts';

type Options = Readonly<Record<string, unknown>>;

/** How a wait for a run ended. `detached`: a second Ctrl-C; the run goes on in the daemon. */
type Followed = { readonly run: RunView; readonly detached: boolean };

/**
 * Shows a run until nothing is being done for it any more. The first Ctrl-C asks the daemon to undo (where that is still
 * possible), the second one detaches. `start` is called when the events are being listened to.
 */
async function follow(session: Session, api: ApiClient, start: () => Promise<RunView>): Promise<Followed> {
  const progress = new ProgressView(session.terminal, session.quiet);
  let latest: RunView | undefined;
  let phase = '';
  let wake: () => void = () => {};
  let detached = false;
  let lost = false;
  let interrupts = 0;
  const see = (run: RunView) => {
    if (latest !== undefined && run.id !== latest.id) return;
    latest = run;
    if (run.phase !== phase) {
      phase = run.phase;
      progress.note(session.terminal.style('bold', `run ${run.id}: ${phase}`));
    }
    if (!run.working) wake();
  };
  const stream = await api.events((event) => {
    if (event.type === 'step') {
      const { run, step } = event.data as { run: string; step: StepView };
      if (latest === undefined || run === latest.id) progress.step(step);
    } else if (event.type === 'run' && latest !== undefined) see(event.data as RunView);
  });
  const onInterrupt = () => {
    interrupts++;
    if (interrupts > 1 || latest === undefined) {
      detached = true;
      wake();
      return;
    }
    progress.note('asking the daemon to undo; Ctrl-C again leaves it to go on by itself');
    api.post(`/runs/${latest.id}/cancel`).catch((error: unknown) => {
      progress.note(`it goes on: ${(error as Error).message}`);
    });
  };
  process.on('SIGINT', onInterrupt);
  stream.ended.then(() => {
    lost = true;
    wake();
  });
  try {
    see(await start());
    // What was finished before `start` answered has told its events already.
    if (latest !== undefined) see(await api.get<RunView>(`/runs/${(latest as RunView).id}`));
    while ((latest as RunView | undefined)?.working === true && !detached && !lost) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  } finally {
    process.off('SIGINT', onInterrupt);
    stream.close();
    progress.clear();
  }
  if (latest === undefined) throw new CliError('failed', 'the daemon began no run');
  if (lost && !detached) {
    throw new CliError('no-daemon', `the daemon ended while run ${(latest as RunView).id} was going on`, {
      remedy: 'start it with changeover up: it takes the run up from its journal',
    });
  }
  return { run: latest, detached };
}

function ended(session: Session, { run, detached }: Followed): ExitCode {
  if (detached) {
    session.result(run, () => []);
    session.terminal.err(`run ${run.id} goes on in the daemon: see changeover report ${run.id}`);
    return EXIT.resumable;
  }
  if (run.error !== undefined) {
    const { code, message, remedy } = run.error;
    const standing = run.phase === 'probation' ? '; the run is still on probation' : '';
    throw new CliError(code, `run ${run.id} is ${run.phase}: ${message}${standing}`, {
      ...(remedy === undefined ? {} : { remedy }),
      values: { run },
    });
  }
  session.result(run, () => reportLines(run, session.terminal));
  if (!session.quiet && run.phase === 'probation') {
    session.terminal.err('next: changeover commit, or changeover rollback');
  }
  if (!session.quiet && run.phase === 'ready') {
    session.terminal.err('next: changeover patch cut, or changeover patch cancel');
  }
  return EXIT.done;
}

function request(options: Options): Record<string, unknown> {
  const { strategy, procedure, service, prepareOnly, dryRun, withoutPatches } = options;
  return {
    ...(strategy === undefined ? {} : { strategy }),
    ...(procedure === undefined ? {} : { procedure }),
    ...(service === undefined ? {} : { service }),
    ...(dryRun === true ? { dryRun: true } : {}),
    ...(prepareOnly === true ? { prepareOnly: true } : {}),
    ...(withoutPatches === true ? { withoutPatches: true } : {}),
  };
}

/** JSON of all of these: RunView. */
async function begin(session: Session, body: object): Promise<ExitCode> {
  const api = await session.api();
  return ended(session, await follow(session, api, () => api.post<RunView>('/runs', body)));
}

async function act(session: Session, args: readonly string[], verb: string): Promise<ExitCode> {
  const api = await session.api();
  const id = await runId(api, args[0]);
  return ended(session, await follow(session, api, () => api.post<RunView>(`/runs/${id}/${verb}`)));
}

async function runId(api: ApiClient, named: string | undefined): Promise<string> {
  if (named !== undefined) return encodeURIComponent(named);
  const { runs } = await api.get<{ runs: RunView[] }>('/runs');
  const open = runs.filter(({ phase }) => !['committed', 'rolled-back', 'undone'].includes(phase));
  const only = open[0];
  if (only !== undefined && open.length === 1) return only.id;
  if (open.length > 1) {
    throw new CliError('usage', 'more than one run is open', {
      remedy: `name one of: ${open.map(({ id }) => id).join(', ')}`,
    });
  }
  throw new CliError('no-such-run', 'no run is open', { remedy: 'see changeover report --all' });
}

/** JSON: RunView, or with --all {runs: RunView[]}. */
async function report(session: Session, args: readonly string[], options: Options): Promise<ExitCode> {
  const api = await session.api();
  if (options['all'] === true) {
    const answer = await api.get<{ runs: RunView[] }>('/runs');
    session.result(answer, () =>
      tableLines(
        ['run', 'service', 'from', 'to', 'strategy', 'phase', 'started', 'patches'],
        answer.runs.map((r) => [
          r.id,
          r.service,
          r.from,
          r.to,
          r.strategy,
          r.phase,
          timeText(r.startedAtMs),
          r.patches.join(' '),
        ]),
      ),
    );
    return EXIT.done;
  }
  const run = await api.get<RunView>(`/runs/${encodeURIComponent(args[0] ?? 'last')}`);
  session.result(run, () => reportLines(run, session.terminal));
  return EXIT.done;
}

export const runCommands = {
  run: (session: Session, _args: readonly string[], options: Options) => begin(session, request(options)),
  dryRun: (session: Session, _args: readonly string[], options: Options) =>
    begin(session, { ...request(options), dryRun: true }),
  cut: (session: Session, args: readonly string[]) => act(session, args, 'cut'),
  cancel: (session: Session, args: readonly string[]) => act(session, args, 'cancel'),
  rollback: (session: Session, args: readonly string[]) => act(session, args, 'rollback'),
  commit: (session: Session, args: readonly string[]) => act(session, args, 'commit'),
  report,
};
