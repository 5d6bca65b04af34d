/**
 * C1, C2: what clients see of a changeover. The same load on every contender: keep-alive readers at a fixed pace and responses
 * of two seconds in flight. The peers move between two kernel hosts: the service address by `ip` and gratuitous ARP, and HAProxy
 * by its runtime switch. A client's gap is the time between two of its answers; what counts is how far it exceeds the pace.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
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

const MOVED = 'address moved by ip';
const HAPROXY = 'HAProxy';
const READERS = 32;
const STREAMS = 4;
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
  if (bench.wants('C1')) {
    const hosts = await twoHosts(bench, stage).catch(messageOf);
    const peer = (name: string, make: (hosts: Hosts) => Contender): Contender | Absent =>
      typeof hosts === 'string' ? { name, absent: hosts } : make(hosts);
    const haproxy =
      typeof hosts === 'string' ? hosts : await startHaproxy(bench, stage, hosts).catch(messageOf);
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
        peers: [
          peer(MOVED, (both) => ({
            name: MOVED,
            sample: async () =>
              sampleOf(
                await underLoad({ ...CLIENTS, host: MOVING, port: 80, rate, writers: 0 }, () =>
                  moveAddress(stage, both),
                ),
              ),
          })),
          typeof haproxy === 'string'
            ? { name: HAPROXY, absent: haproxy }
            : {
                name: HAPROXY,
                sample: async () =>
                  sampleOf(
                    await underLoad({ ...CLIENTS, host: BRIDGE, port: 8080, rate, writers: 0 }, haproxy),
                  ),
              },
        ],
      });
    }
  }
  if (bench.wants('C2')) await hold(bench, pair, rounds);
}

async function hold(bench: Bench, pair: Pair, rounds: number): Promise<void> {
  const rate = 500;
  await bench.race({
    id: 'C2',
    rounds,
    figures: [
      ...figuresOf(`hold with writers, ${rate}/s`, {}, 300),
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
          { ...CLIENTS, host: SERVICE_ADDRESS, port: 80, rate, writers: 4 },
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
  });
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

/** The function that switches to the other server and back. */
async function startHaproxy(bench: Bench, stage: Stage, _hosts: Hosts): Promise<() => Promise<void>> {
  const lacking = missing('haproxy');
  if (lacking !== undefined) throw new Error(lacking);
  const socket = join(bench.scratch, 'haproxy.sock');
  const file = join(bench.scratch, 'haproxy.cfg');
  writeFileSync(
    file,
    `global
  stats socket ${socket} level admin
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend in
  bind ${BRIDGE}:8080
  default_backend hosts
backend hosts
  server a 10.81.0.2:80
  server b 10.81.0.3:80 disabled
`,
  );
  const answers = () =>
    command(socket, 'show info').then(
      (text) => text !== '',
      () => false,
    );
  await stage.start(['haproxy', '-db', '-f', file], { ready: answers });
  let [from, to] = ['a', 'b'];
  return async () => {
    await command(socket, `set server hosts/${to} state ready; set server hosts/${from} state maint`);
    [from, to] = [to!, from!];
  };
}

function command(path: string, line: string): Promise<string> {
  return new Promise((done, failed) => {
    let answer = '';
    const socket = connect(path, () => socket.write(`${line}\n`));
    socket.on('data', (data) => {
      answer += data;
    });
    socket.on('error', failed);
    socket.on('close', () => done(answer));
  });
}
