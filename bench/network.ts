/**
 * M1, M2, M3: `changeover mux` between two TAP interfaces against the Linux bridge and vde_switch; beside them the least that any
 * process between two TAPs can do (programs/tap-forward.c, compiled here): what it needs, the kernel needs.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf } from '../src/common/index.ts';
import type { Absent, Bench, Contender, NetworkNamespace, Stage, Subject } from './framework/index.ts';
import { CHANGEOVER, compiled, ip, median, missing, onStage, pause, quantile } from './framework/index.ts';

const MUX = 'changeover mux';
const BRIDGE = 'Linux bridge';
const VDE = 'vde_switch';
const BARE = 'bare forwarder in C';
/** Payload of a UDP packet whose frame has 60 bytes. */
const SMALL_PAYLOAD = 18;

/** A way from the left namespace to the right one. */
interface Path {
  readonly name: string;
  /** Of the right end. */
  readonly address: string;
}

interface Ends {
  readonly left: NetworkNamespace;
  readonly right: NetworkNamespace;
}

export const networkSubject: Subject = {
  ids: ['M1', 'M2', 'M3'],
  run: (bench) =>
    onStage(async (stage) => {
      const ends: Ends = { left: await stage.namespace(), right: await stage.namespace() };
      const mux = await muxPath(stage, ends);
      const bridge = await orAbsent(BRIDGE, () => bridgePath(ends));
      const vde = await orAbsent(VDE, () => vdePath(bench, stage, ends));
      const bare = await orAbsent(BARE, () => barePath(bench, stage, ends));
      await settled(stage, ends, mux);
      const lacking = missing('iperf3');
      if (lacking === undefined) {
        await stage.start(['iperf3', '--server', '--forceflush'], { in: ends.right, ready: /listening/i });
        await stream(bench, stage, ends, mux, [bridge, vde, bare]);
        await smallFrames(bench, stage, ends, mux, [vde, bridge, bare]);
      } else for (const id of ['M1', 'M2']) if (bench.wants(id)) bench.skip(id, lacking);
      if (missing('ping') === undefined) await roundTrip(bench, stage, ends, mux, [vde, bridge, bare]);
      else if (bench.wants('M3')) bench.skip('M3', 'ping is not installed');
    }),
};

async function stream(bench: Bench, stage: Stage, ends: Ends, mux: Path, peers: readonly (Path | Absent)[]) {
  const of = contenders(async ({ address }) => {
    const argv = ['iperf3', '--json', '--client', address, '--time', String(bench.seconds), '--omit', '0'];
    const { end } = JSON.parse(await stage.run(argv, { in: ends.left })) as {
      end: { sum_received: { bits_per_second: number } };
    };
    return [end.sum_received.bits_per_second];
  });
  await bench.race({
    id: 'M1',
    figures: [
      {
        what: 'TAP to TAP, one TCP stream',
        unit: 'bitsPerSecond',
        better: 'more',
        goals: { [BRIDGE]: 1.2, [VDE]: 8 },
      },
    ],
    ours: of(mux) as Contender,
    peers: peers.map(of),
  });
}

async function smallFrames(
  bench: Bench,
  stage: Stage,
  ends: Ends,
  mux: Path,
  peers: readonly (Path | Absent)[],
) {
  const of = contenders(async ({ address }) => {
    const argv = ['iperf3', '--json', '--udp', '--bitrate', '0', '--length', String(SMALL_PAYLOAD)];
    const output = await stage.run([...argv, '--client', address, '--time', String(bench.seconds)], {
      in: ends.left,
    });
    const { packets, lost_packets, seconds } = (
      JSON.parse(output) as { end: { sum: { packets: number; lost_packets: number; seconds: number } } }
    ).end.sum;
    return [(packets - lost_packets) / seconds];
  });
  await bench.race({
    id: 'M2',
    figures: [
      { what: '60-byte frames that arrive', unit: 'perSecond', better: 'more', goals: { [VDE]: 1.5 } },
    ],
    ours: of(mux) as Contender,
    peers: peers.map(of),
  });
}

async function roundTrip(
  bench: Bench,
  stage: Stage,
  ends: Ends,
  mux: Path,
  peers: readonly (Path | Absent)[],
) {
  const count = bench.quick ? 300 : 1_000;
  // One disturbance of a few milliseconds is the 99th percentile of a round: many short rounds, of which the median counts.
  const rounds = bench.quick ? 2 : 9;
  const of = contenders(async ({ address }) => {
    const argv = ['ping', '-n', '-i', '0.001', '-c', String(count), '-W', '1', address];
    const output = await stage.run(argv, { in: ends.left });
    const times = [...output.matchAll(/time=([\d.]+) ms/g)].map((match) => Number(match[1]));
    if (times.length < count) throw new Error(`${count - times.length} of ${count} pings had no answer`);
    return [median(times), quantile(times, 0.99)];
  });
  const goals = { [VDE]: 1 };
  await bench.race({
    id: 'M3',
    rounds,
    figures: [
      { what: 'ping, median', unit: 'milliseconds', better: 'less', goals },
      { what: 'ping, 99th percentile', unit: 'milliseconds', better: 'less', goals },
    ],
    ours: of(mux) as Contender,
    peers: peers.map(of),
  });
}

function contenders(
  sample: (path: Path) => Promise<readonly number[]>,
): (path: Path | Absent) => Contender | Absent {
  return (path) => ('absent' in path ? path : { name: path.name, sample: () => sample(path) });
}

async function orAbsent(name: string, make: () => Promise<Path> | Path): Promise<Path | Absent> {
  try {
    return await make();
  } catch (error) {
    return { name, absent: messageOf(error) };
  }
}

async function muxPath(stage: Stage, ends: Ends): Promise<Path> {
  await stage.start([...CHANGEOVER, 'mux', '--tap', 'mux0', '--tap', 'mux1'], { ready: /joined/ });
  place(ends, 'mux0', 'mux1', '10.78.1');
  return { name: MUX, address: '10.78.1.2' };
}

function bridgePath(ends: Ends): Path {
  ip(undefined, 'link add br0 type bridge forward_delay 0');
  ip(undefined, 'link set br0 up');
  for (const side of ['0', '1']) {
    ip(undefined, `link add veth${side} type veth peer name port${side}`);
    ip(undefined, `link set port${side} master br0 up`);
  }
  place(ends, 'veth0', 'veth1', '10.78.2');
  return { name: BRIDGE, address: '10.78.2.2' };
}

async function vdePath(bench: Bench, stage: Stage, ends: Ends): Promise<Path> {
  const lacking = missing('vde_switch');
  if (lacking !== undefined) throw new Error(lacking);
  const socket = join(bench.scratch, 'vde');
  mkdirSync(socket);
  await stage.start(['vde_switch', '--sock', socket, '--tap', 'vde0', '--tap', 'vde1'], {
    ready: () => interfaceExists('vde0') && interfaceExists('vde1'),
  });
  place(ends, 'vde0', 'vde1', '10.78.3');
  return { name: VDE, address: '10.78.3.2' };
}

async function barePath(bench: Bench, stage: Stage, ends: Ends): Promise<Path> {
  const program = compiled('tap-forward.c', bench.scratch);
  await stage.start([program, 'bare0', 'bare1'], { ready: /joined/ });
  place(ends, 'bare0', 'bare1', '10.78.4');
  return { name: BARE, address: '10.78.4.2' };
}

function interfaceExists(name: string): boolean {
  try {
    ip(undefined, `link show ${name}`);
    return true;
  } catch {
    return false;
  }
}

/** Moves the two ends of a path into the namespaces and gives them addresses. */
function place({ left, right }: Ends, first: string, second: string, network: string): void {
  for (const [space, name, address] of [
    [left, first, `${network}.1/24`],
    [right, second, `${network}.2/24`],
  ] as const) {
    ip(undefined, `link set ${name} netns ${space.pid}`);
    ip(space, `addr add ${address} dev ${name}`);
    ip(space, `link set ${name} up`);
  }
}

async function settled(stage: Stage, { left }: Ends, path: Path): Promise<void> {
  for (let tries = 50; tries > 0; tries--) {
    try {
      await stage.run(['ping', '-n', '-c', '1', '-W', '1', path.address], { in: left });
      return;
    } catch {
      await pause(50);
    }
  }
}
