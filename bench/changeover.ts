/**
 * C1, C2: what clients see of a changeover. The same load on every contender: keep-alive readers at a fixed pace and responses
 * of two seconds in flight. The peers move between two kernel hosts: the service address by `ip` and gratuitous ARP, HAProxy
 * by its runtime switch, nginx by a graceful reload. A client's gap is the time between two of its answers; what counts is how far it exceeds the pace.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { Clients } from '../src/cli/demo/clients.ts';
import type { LoadOptions, LoadReport } from '../src/cli/demo/load.ts';
import { SERVICE_ADDRESS } from '../src/cli/demo/scene.ts';
import { messageOf } from '../src/common/index.ts';
import type {
  Absent,
  Bench,
  Contender,
  Figure,
  NetworkNamespace,
  Stage,
  Subject,
} from './framework/index.ts';
import { ip, missing, NODE, onStage, pause, REPOSITORY } from './framework/index.ts';
import { Pair } from './pair.ts';
import { startHaproxy, startNginx } from './proxies.ts';

const MOVED = 'address moved by ip';
const HAPROXY = 'HAProxy';
const NGINX = 'nginx, reload';
const READERS = 32;
const STREAMS = 4;
const HOLD_RATE = 500;
/** Every stream has begun, and none has ended. */
const BEFORE_MS = 1_600;
const AFTER_MS = 800;

const CLIENTS: Omit<LoadOptions, 'host' | 'port' | 'rate' | 'writers'> = {
  readers: READERS,
  writeRate: 200,
  streams: STREAMS,
};

export const changeoverSubject: Subject = {
  ids: ['C1', 'C2'],
  async run(bench) {
    if (bench.wants('C1') || bench.wants('C2')) await onStage((stage) => changeovers(bench, stage));
  },
};

async function changeovers(bench: Bench, stage: Stage): Promise<void> {
  const pair = await Pair.start(bench, stage, 'changeover');
  const rounds = bench.quick ? 1 : 3;
  const peers = await peersAt(bench, stage);
  if (bench.wants('C1')) {
    for (const rate of bench.quick ? [2_000] : [500, 2_000]) {
      await bench.race({
        id: 'C1',
        rounds: rate === 500 ? 2 : rounds,
        figures: figuresOf(`overlap, ${rate}/s`, { [HAPROXY]: 1 }),
        ours: {
          name: 'overlap',
          async sample() {
            const run = await pair.prepare('overlap');
            const load = await underLoad(
              { ...CLIENTS, host: SERVICE_ADDRESS, port: 80, rate, writers: 0 },
              () => pair.cut(run),
            );
            await pair.rollback(run);
            return sampleOf(load);
          },
        },
        peers: peers(rate),
      });
    }
  }
  if (bench.wants('C2')) await hold(bench, pair, rounds, peers(HOLD_RATE));
}

async function hold(
  bench: Bench,
  pair: Pair,
  rounds: number,
  peers: readonly (Contender | Absent)[],
): Promise<void> {
  await bench.race({
    id: 'C2',
    rounds,
    figures: [
      ...figuresOf(`hold with writers, ${HOLD_RATE}/s`, {}, 300),
      { what: 'hold, pause', unit: 'milliseconds', better: 'less', limit: 50 },
      { what: 'hold, forecast off by', unit: 'percent', better: 'less', limit: 25 },
    ],
    ours: {
      name: 'hold',
      async sample() {
        const run = await pair.prepare('hold');
        let pauseMs = Number.NaN;
        let forecastMs = Number.NaN;
        const load = await underLoad(
          { ...CLIENTS, host: SERVICE_ADDRESS, port: 80, rate: HOLD_RATE, writers: 4 },
          async () => {
            const { cut } = await pair.cut(run);
            pauseMs = cut?.pauseMs ?? Number.NaN;
            forecastMs = cut?.forecastPauseMs ?? Number.NaN;
          },
        );
        await pair.rollback(run);
        return [...sampleOf(load), pauseMs, (100 * Math.abs(forecastMs - pauseMs)) / pauseMs];
      },
    },
    peers,
  });
}

/** The peers under readers and streams; they carry no writes along, so there are no writers. */
async function peersAt(bench: Bench, stage: Stage): Promise<(rate: number) => (Contender | Absent)[]> {
  const hosts = await twoHosts(bench, stage).catch(messageOf);
  const startProxy = (start: typeof startHaproxy) =>
    typeof hosts === 'string' ? hosts : start(bench, stage, BRIDGE, SERVERS).catch(messageOf);
  const move = typeof hosts === 'string' ? hosts : () => moveAddress(stage, hosts);
  const haproxy = await startProxy(startHaproxy);
  const nginx = await startProxy(startNginx);
  return (rate) => {
    const peer = (
      name: string,
      host: string,
      port: number,
      act: string | (() => Promise<void>),
    ): Contender | Absent =>
      typeof act === 'string'
        ? { name, absent: act }
        : {
            name,
            sample: async () => sampleOf(await underLoad({ ...CLIENTS, host, port, rate, writers: 0 }, act)),
          };
    return [
      peer(MOVED, MOVING, 80, move),
      peer(HAPROXY, BRIDGE, 8080, haproxy),
      peer(NGINX, BRIDGE, 8081, nginx),
    ];
  };
}

function figuresOf(
  what: string,
  gapGoals: Readonly<Record<string, number>>,
  gapLimitMs = 50,
): readonly Figure[] {
  return [
    { what: `${what}: failed requests`, unit: 'count', better: 'less', worst: true, limit: 0 },
    { what: `${what}: streams cut`, unit: 'count', better: 'less', worst: true, limit: 0 },
    {
      what: `${what}: longest gap over pace`,
      unit: 'milliseconds',
      better: 'less',
      worst: true,
      goals: gapGoals,
      limit: gapLimitMs,
    },
  ];
}

function sampleOf({ requests, streams }: LoadReport): readonly number[] {
  return [requests.failed, streams.cut, requests.longestGapMs - requests.medianGapMs];
}

/** Starts the clients, does it in their midst, and waits for every stream. */
async function underLoad(options: LoadOptions, action: () => Promise<unknown>): Promise<LoadReport> {
  const clients = new Clients(options);
  try {
    await pause(BEFORE_MS);
    await action();
    await pause(AFTER_MS);
    return await clients.ask('stop');
  } finally {
    await clients.kill();
  }
}

const BRIDGE = '10.81.0.1';
const MOVING = '10.81.0.11';
const SERVERS = ['10.81.0.2:80', '10.81.0.3:80'] as const;

interface Hosts {
  readonly spaces: readonly [NetworkNamespace, NetworkNamespace];
  /** Which has the moving address. */
  at: 0 | 1;
}

/** Two namespaces behind a bridge, each with the service on kernel TCP; the first has the address that moves. */
async function twoHosts(bench: Bench, stage: Stage): Promise<Hosts> {
  const lacking = missing('arping');
  if (lacking !== undefined) throw new Error(lacking);
  ip(undefined, 'link add hosts0 type bridge forward_delay 0');
  ip(undefined, `addr add ${BRIDGE}/24 dev hosts0`);
  ip(undefined, 'link set hosts0 up');
  const spaces = [await stage.namespace(), await stage.namespace()] as const;
  for (const [index, space] of spaces.entries()) {
    ip(undefined, `link add host${index} type veth peer name eth0 netns ${space.pid}`);
    ip(undefined, `link set host${index} master hosts0 up`);
    ip(space, 'link set eth0 up');
    ip(space, `addr add 10.81.0.${2 + index}/24 dev eth0`);
    const data = join(bench.scratch, `host${index}`);
    mkdirSync(data);
    await stage.start([...NODE, join(REPOSITORY, 'examples/ledger/server.mjs')], {
      in: space,
      env: { LEDGER_DATA: data, LEDGER_REPORTS: data },
      ready: /listens/,
    });
  }
  ip(spaces[0], `addr add ${MOVING}/24 dev eth0`);
  return { spaces, at: 0 };
}

/** In one shell, so that it takes no longer than it must. */
async function moveAddress(stage: Stage, hosts: Hosts): Promise<void> {
  const from = hosts.spaces[hosts.at].enter.join(' ');
  hosts.at = hosts.at === 0 ? 1 : 0;
  const to = hosts.spaces[hosts.at].enter.join(' ');
  await stage.run([
    'sh',
    '-ec',
    `${from} ip addr del ${MOVING}/24 dev eth0; ${to} ip addr add ${MOVING}/24 dev eth0; ${to} arping -q -U -c 1 -I eth0 ${MOVING}`,
  ]);
}
