/** The mux and the block process as the daemon keeps them. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { FlowName } from '../../channel/index.ts';
import { messageOf, pointsForChild, programFile } from '../../common/index.ts';
import type { DiskCommands, DiskEvents, MuxCommands, MuxEvents } from '../../hypervisor/index.ts';
import { ControlProgram } from '../../hypervisor/index.ts';
import type { Remember } from '../processes/desired-state.ts';
import { DesiredState, rememberBlock, rememberMux } from '../processes/desired-state.ts';
import type { KeptProcessOptions } from '../processes/kept-process.ts';
import { KeptProcess } from '../processes/kept-process.ts';
import { replayMux } from '../processes/mux-replay.ts';
import type { Daemon } from './daemon.ts';
import { portName } from './mapping.ts';

export type KeptMux = KeptProcess<MuxCommands, MuxEvents>;
export type KeptDisks = KeptProcess<DiskCommands, DiskEvents>;

interface Which {
  readonly name: 'mux' | 'block';
  readonly socket: string;
  readonly remember: Remember;
  readonly ping: string;
  readonly replay?: KeptProcessOptions['replay'];
  readonly onRestarted?: () => Promise<void>;
}

function options(daemon: Daemon, leftOver: boolean, which: Which) {
  const { name, socket, remember, ping, replay, onRestarted } = which;
  const { runDirectory, supervision } = daemon.configuration;
  const desired = new DesiredState(join(runDirectory, `${name}.desired.json`), remember);
  if (!leftOver) desired.clear();
  const main = programFile(fileURLToPath(new URL(`../processes/${name}.ts`, import.meta.url)));
  const command: [string, ...string[]] = [
    process.execPath,
    '--disable-warning=ExperimentalWarning',
    main,
    '--control',
    socket,
    ...(daemon.lifeline ? ['--lifeline'] : []),
    ...pointsForChild().args,
  ];
  return {
    title: `${name} process`,
    socket,
    command,
    pidFile: join(runDirectory, `${name}.pid`),
    logFile: join(daemon.paths.logs, `${name}.log`),
    desired,
    lifeline: daemon.lifeline,
    log: daemon.log.with({ part: name }),
    ping,
    points: name,
    cacheDirectory: daemon.paths.cache,
    answerMs: supervision.answerMs,
    limit: { restarts: supervision.restarts, withinMs: supervision.withinMs },
    onGaveUp: (reason: string) => daemon.alarm(reason),
    ...(replay === undefined ? {} : { replay }),
    onUp: async (how: 'adopted' | 'started' | 'restarted') => {
      daemon.events.publish('process', { name, state: 'up', how });
      if (how === 'restarted') await onRestarted?.();
    },
    onDown: (reason: string) => {
      daemon.events.publish('process', { name, state: 'down', reason });
      daemon.complain(`the ${name} process ended and is started again: ${reason}`);
    },
  };
}

/** `configureHost` is called when a restarted mux has opened its uplinks again. */
export function keptMux(daemon: Daemon, leftOver: boolean, configureHost: () => Promise<void>): KeptMux {
  const kept = options(daemon, leftOver, {
    name: 'mux',
    socket: daemon.paths.mux,
    remember: rememberMux,
    ping: 'ports',
    replay: (tell, commands) => replayMux(tell, commands, (port) => flowsBehind(daemon, port)),
    onRestarted: configureHost,
  });
  const mux: KeptMux = new KeptProcess(kept);
  mux.on('PORT', (data) => daemon.events.publish('port', data));
  mux.on('DRAINED', (data) => daemon.events.publish('drained', data));
  mux.on('HOLD_TIMEOUT', (data) => {
    kept.desired.executed('hold-release', { address: data.address });
    daemon.events.publish('hold-timeout', data);
    daemon.complain(
      `the hold of ${data.address} ran into its time limit, ${data.released} packets were let go`,
    );
  });
  return mux;
}

/** What a partition may take to name its connections, ms: until then a restarted mux lets nothing pass. */
const FLOWS_LIMIT_MS = 1_000;

/** Asked at its agent, with no hypervisor in between: the mux may be started before there is one. */
async function flowsBehind(daemon: Daemon, port: string): Promise<readonly FlowName[]> {
  const partition = daemon.configuration.partitions.find(({ id, network }) =>
    network.some(({ name }) => portName(id, name) === port),
  );
  if (partition === undefined) return [];
  try {
    const control = await ControlProgram.connect(partition.id, daemon.paths.agent(partition.id));
    try {
      const { connections } = await control.execute('changeover-connections', {}, FLOWS_LIMIT_MS);
      return connections.map(({ flow }) => flow);
    } finally {
      control.close();
    }
  } catch (error) {
    daemon.log.warn(`partition ${partition.id} did not name its connections`, { reason: messageOf(error) });
    return [];
  }
}

/** Late writes closer together than this are told as one event. */
const LATE_WRITE_MS = 1000;

export function keptDisks(daemon: Daemon, leftOver: boolean): KeptDisks {
  const disks: KeptDisks = new KeptProcess(
    options(daemon, leftOver, {
      name: 'block',
      socket: daemon.paths.block,
      remember: rememberBlock,
      ping: 'counters',
    }),
  );
  const late = new Map<string, { count: number; toldMs: number }>();
  disks.on('COPY_PROGRESS', ({ status }) => daemon.events.publish('copy', status));
  disks.on('LATE_WRITE', ({ id }) => {
    const known = late.get(id) ?? { count: 0, toldMs: Number.NEGATIVE_INFINITY };
    known.count++;
    if (performance.now() - known.toldMs > LATE_WRITE_MS) {
      known.toldMs = performance.now();
      daemon.events.publish('late-write', { id, count: known.count });
    }
    late.set(id, known);
  });
  disks.on('DISK_FAILED', (data) => {
    daemon.events.publish('disk-failed', data);
    daemon.complain(`disk ${data.id} failed: ${data.reason}`);
  });
  return disks;
}
