/**
 * V3, the network's part: partitions that send as much as they can, each a process of its own, through the mux process to one
 * receiver. Its share is what a partition gets beside an equal one; beside one that misbehaves it keeps at least 80 % of it.
 * @alone
 */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import * as assert from 'uvu/assert';
import { ChannelClient } from '../../src/channel/index.ts';
import type { MuxCommands, MuxEvents, PortLimits } from '../../src/hypervisor/mux/index.ts';
import { eventually, liveSuite, SOAK, within } from '../support/index.ts';
import { children, endChildren, node } from './support/children.ts';
import type { PumpOptions, PumpOrder } from './support/pump.ts';

const live = liveSuite('live/mux-fairness');

const KEEPS = 0.8;
const ROUNDS = SOAK ? 200 : 3;
/** Where the machine does other work, too, more samples are taken before the median is believed. */
const MOST_ROUNDS = SOAK ? 400 : 15;
const SAMPLE_MS = 300;
const MTU_FRAME = 1514;

const directory = mkdtempSync(join(tmpdir(), 'changeover-fair-'));
live.after(async () => {
  for (const one of Object.values(running)) (await one).channel.close();
  endChildren();
  rmSync(directory, { recursive: true, force: true });
});

const codeOf = (name: string) => name.charCodeAt(0);
const mac = (name: string) => `02:00:00:00:97:${codeOf(name).toString(16)}`;

interface Pump {
  order(order: PumpOrder): void;
}

/** The mux process, a sink, and two partitions, victim and rival, that wait for orders. */
async function scene(rings: boolean) {
  const control = join(directory, `control${children.length}`);
  node('src/daemon/processes/mux.ts', '--control', control, '--lifeline');
  const channel = await ChannelClient.connect<MuxCommands, MuxEvents>(control, 'the mux process', {
    waitMs: 30_000,
  });
  /** Bytes by the last byte of the MAC that they came from. */
  let arrived: number[] = [];
  const addresses: Record<string, string> = { sink: '10.97.0.1', victim: '10.97.0.2', rival: '10.97.0.3' };
  const pumps: Record<string, ChildProcess> = {};
  const starting = Object.entries(addresses).map(async ([name, address]) => {
    const socket = `${control}-${name}`;
    await channel.execute('port-add', {
      name,
      socket,
      mac: mac(name),
      addresses: [address],
      vnetHeader: true,
    });
    await channel.execute('port-state', { name, state: 'attached' });
    const options: PumpOptions = {
      socket,
      mac: mac(name),
      address,
      toMac: mac('sink'),
      to: addresses['sink']!,
      sink: name === 'sink',
      rings,
    };
    const child = node('test/live/support/pump.ts', JSON.stringify(options));
    const lines = createInterface({ input: child.stdout! });
    await once(lines, 'line');
    lines.on('line', (line: string) => {
      arrived = JSON.parse(line) as number[];
    });
    pumps[name] = child;
  });
  await Promise.all(starting);
  const pump = (name: string): Pump => ({
    order: (order) => void pumps[name]!.stdin!.write(`${JSON.stringify(order)}\n`),
  });
  /** Bytes per second from a partition that arrive, over one sample. */
  const rates = async (ms = SAMPLE_MS): Promise<{ victim: number; rival: number }> => {
    await wait(150);
    const before = arrived;
    const fromMs = performance.now();
    await wait(ms);
    const of = (name: string) => (arrived[codeOf(name)] ?? 0) - (before[codeOf(name)] ?? 0);
    const seconds = (performance.now() - fromMs) / 1000;
    return { victim: of('victim') / seconds, rival: of('rival') / seconds };
  };
  return { channel, victim: pump('victim'), rival: pump('rival'), rates };
}

const CARRIERS = ['stream', 'ring'] as const;
const running: Partial<Record<(typeof CARRIERS)[number], ReturnType<typeof scene>>> = {};
const theScene = (carrier: (typeof CARRIERS)[number]) => {
  running[carrier] ??= scene(carrier === 'ring');
  return running[carrier];
};

const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const median = (values: readonly number[]) => [...values].sort((a, b) => a - b)[values.length >> 1]!;
const mib = (bytes: number) => `${(bytes / 1024 / 1024).toFixed(1)} MiB/s`;

const RIVALS: readonly (readonly [string, PumpOrder])[] = [
  ['frames of 60 bytes', { bytes: 60 }],
  ['larger frames', { bytes: 9000 }],
  // The last one: who forges is held back for a while.
  ['frames with a forged MAC', { bytes: 60, spoofed: '02:66:66:66:66:66' }],
];

for (const carrier of CARRIERS)
  live(
    `V3, ${carrier}: beside a partition at full load another one keeps ${100 * KEEPS} % of its share, ${ROUNDS} rounds`,
    within(
      async () => {
        const { victim, rival, rates } = await theScene(carrier);
        victim.order({ bytes: MTU_FRAME });
        rival.order({ bytes: MTU_FRAME });
        await rates(1_000);
        const equal: number[] = [];
        const beside = RIVALS.map(() => [] as number[]);
        // Each beside the equal one of its round: what else the machine does changes from round to round.
        const kept = () =>
          beside.map((values) => median(values.map((value, round) => value / equal[round]!)));
        let round = 0;
        for (; round < ROUNDS || (round < MOST_ROUNDS && kept().some((part) => part < KEEPS)); round++) {
          rival.order({ bytes: MTU_FRAME });
          await eventually('the rival is heard again', async () => (await rates(50)).rival > 0);
          equal.push((await rates()).victim);
          for (const [i, [, order]] of RIVALS.entries()) {
            rival.order(order);
            beside[i]!.push((await rates()).victim);
          }
        }
        for (const pump of [victim, rival]) pump.order({ bytes: 0 });
        for (const [i, part] of kept().entries()) {
          const [name] = RIVALS[i]!;
          const percent = `${(100 * part).toFixed(0)} %`;
          console.log(
            `${carrier}: beside ${name}: ${mib(median(beside[i]!))} of ${mib(median(equal))}, ${percent}, ${round} rounds`,
          );
          assert.ok(part >= KEEPS, `beside ${name} it keeps ${percent}`);
        }
      },
      SOAK ? 3_600_000 : 60_000,
    ),
  );

for (const carrier of CARRIERS)
  live(
    `${carrier}: a partition with a limit gets its rate, loses nothing, and its neighbour gets the rest; limits change while it sends`,
    within(async () => {
      const { channel, victim, rival, rates } = await theScene(carrier);
      const limit = (limits: PortLimits | null) => channel.execute('port-limits', { name: 'rival', limits });
      const rate = 400_000;
      await limit({ send: { bytesPerSecond: rate, burstBytes: 40_000 } });
      victim.order({ bytes: MTU_FRAME });
      rival.order({ bytes: MTU_FRAME });
      await rates(500);
      const slow = await rates(2_000);
      console.log(`limited to 400 kB/s: ${mib(slow.rival)}, its neighbour ${mib(slow.victim)}`);
      assert.ok(slow.rival > 0.5 * rate && slow.rival < 1.2 * rate, `${slow.rival} bytes/s`);
      assert.ok(slow.victim > 2 * slow.rival, `${slow.victim} bytes/s`);
      const status = (await channel.execute('ports', {})).find((port) => port.name === 'rival')!;
      assert.equal(status.limits, { send: { bytesPerSecond: rate, burstBytes: 40_000 } });
      assert.is(status.drops['rate-limit'], undefined);
      assert.ok(status.heldBack! > 0);
      await limit({ send: { packetsPerSecond: 200, burstPackets: 10 } });
      await rates(500);
      const few = await rates(2_000);
      assert.ok(few.rival > 100 * MTU_FRAME && few.rival < 250 * MTU_FRAME, `${few.rival} bytes/s`);
      await limit(null);
      await rates(300);
      assert.ok((await rates(1_000)).rival > 2 * rate, 'free again');
      for (const pump of [victim, rival]) pump.order({ bytes: 0 });
    }, 60_000),
  );

live.run();
