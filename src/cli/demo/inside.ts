/** The part of `changeover demo` that runs inside its own network namespace. Started by index.ts, never by hand. */
import type { ChildProcess } from 'node:child_process';
import { execFileSync, spawn } from 'node:child_process';
import { cpSync, createWriteStream, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { programFile, sentenceOf } from '../../common/index.ts';
import type { Procedure, Strategy } from '../../patch/index.ts';
import { ApiClient } from '../api-client.ts';
import { CliError } from '../cli-error.ts';
import { processTerminal } from '../terminal.ts';
import { Clients } from './clients.ts';
import { Play } from './play.ts';
import { fileSystemFault } from './proof.ts';
import { renderResult, resultOf } from './result.ts';
import type { Scene } from './scene.ts';
import { buildScene, SERVICE_ADDRESS } from './scene.ts';

export interface InsideOptions {
  readonly scratch: string;
  readonly evidence: string;
  readonly strategies: readonly Strategy[];
  readonly procedure?: Procedure;
  readonly seconds: number;
  readonly rate: number;
  readonly json: boolean;
}

const START_LIMIT_MS = 30_000;

async function main(options: InsideOptions): Promise<number> {
  const terminal = processTerminal();
  const say = (line: string) => terminal.err(line);
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  say('preparing disks, partitions and patch source');
  const scene = await buildScene(options.scratch);
  const daemon = startDaemon(scene);
  let clients: Clients | undefined;
  const stop = async () => {
    await clients?.kill();
    await stopDaemon(daemon);
  };
  const interrupted = (signal: NodeJS.Signals) => {
    say(`\n${signal}: taking everything down`);
    void stop().then(() => process.exit(130));
  };
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted);
  process.stdin.on('end', () => void stop().then(() => process.exit(1))).resume();

  try {
    const api = new ApiClient(scene.runDirectory);
    await untilUp(api, daemon);
    clients = new Clients({
      host: SERVICE_ADDRESS,
      port: 80,
      rate: options.rate,
      readers: 32,
      writers: 4,
      writeRate: 200,
      streams: 4,
    });
    const play = new Play(scene, api, clients, terminal, options.seconds, options.json);
    const acts = [];
    for (const strategy of options.strategies) acts.push(await play.act(strategy, options.procedure));
    const load = await clients.ask('stop');
    clients = undefined;
    const reports = play.reports;
    await stopDaemon(daemon);
    const problems = await inspectDisks(scene);
    const evidence = keepEvidence(scene, options.evidence);
    const moved = (path: string) => path.replace(join(scene.stateDirectory, 'evidence'), evidence);
    const result = resultOf(
      acts.map((act) => ({ ...act, evidence: moved(act.evidence), capture: moved(act.capture) })),
      reports,
      load,
      evidence,
      problems,
    );
    if (options.json) terminal.out(JSON.stringify(result));
    else renderResult(result, terminal);
    return result.problems.length === 0 ? 0 : 1;
  } catch (error) {
    say(`changeover demo: ${sentenceOf(error)}`);
    keepEvidence(scene, options.evidence);
    say(`logs and evidence are in ${options.evidence}`);
    return 1;
  } finally {
    await stop();
  }
}

/** Evidence folders, logs of the processes; the images stay behind in the scratch folder. */
function keepEvidence(scene: Scene, target: string): string {
  mkdirSync(target, { recursive: true });
  for (const [from, to] of [
    [join(scene.stateDirectory, 'evidence'), target],
    [join(scene.runDirectory, 'logs'), join(target, 'logs')],
    [join(scene.directory, 'daemon.log'), join(target, 'daemon.log')],
  ] as const) {
    if (existsSync(from)) cpSync(from, to, { recursive: true });
  }
  return target;
}

async function inspectDisks(scene: Scene): Promise<string[]> {
  const problems: string[] = [];
  for (const partition of ['A', 'B'] as const) {
    for (const role of ['system', 'application'] as const) {
      const image = scene.image(partition, role);
      const fault = await fileSystemFault(image);
      if (fault !== undefined) problems.push(`e2fsck -fn of ${partition}'s ${role} disk: ${fault}`);
    }
  }
  return problems;
}

function startDaemon(scene: Scene): ChildProcess {
  const main = programFile(join(import.meta.dirname, '../../daemon/processes/control.ts'));
  const child = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', main, '--config', scene.configuration, '--lifeline'],
    { stdio: ['pipe', 'pipe', 'pipe'] },
  );
  const log = createWriteStream(join(scene.directory, 'daemon.log'));
  child.stdout?.pipe(log, { end: false });
  child.stderr?.pipe(log, { end: false });
  return child;
}

async function stopDaemon(daemon: ChildProcess): Promise<void> {
  if (daemon.exitCode !== null || daemon.signalCode !== null) return;
  const exited = new Promise((resolve) => daemon.once('exit', resolve));
  daemon.kill('SIGTERM');
  const limit = setTimeout(() => daemon.kill('SIGKILL'), 15_000);
  await exited;
  clearTimeout(limit);
}

async function untilUp(api: ApiClient, daemon: ChildProcess): Promise<void> {
  const untilMs = performance.now() + START_LIMIT_MS;
  for (;;) {
    if (daemon.exitCode !== null) {
      throw new CliError('no-daemon', `the daemon ended with code ${daemon.exitCode}`);
    }
    try {
      const status = await api.get<{ services: { health?: { ok: boolean } }[] }>('/status');
      if (status.services[0]?.health?.ok === true) return;
    } catch (error) {
      if (performance.now() > untilMs) throw error;
    }
    if (performance.now() > untilMs)
      throw new CliError('timeout', `the service was not up within ${START_LIMIT_MS / 1000} s`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const given = process.argv[2];
if (given !== undefined) {
  process.exitCode = await main(JSON.parse(given) as InsideOptions);
  process.exit();
}
