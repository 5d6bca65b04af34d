/**
 * V3, the disk's part: partitions that use their disks as much as they can, each a process of its own with a disk of its own at one block
 * process. Its share is what a partition writes beside an equal one; beside one that misbehaves it keeps at least 80 % of it.
 * @alone
 */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import * as assert from 'uvu/assert';
import { ChannelClient } from '../../src/channel/index.ts';
import type { DiskCommands, DiskEvents } from '../../src/hypervisor/index.ts';
import { liveSuite, SOAK, within } from '../support/index.ts';
import { endChildren, node } from './support/children.ts';
import type { DiskOrder } from './support/disk-pump.ts';

const live = liveSuite('live/disk-fairness');

const KEEPS = 0.8;
const ROUNDS = SOAK ? 200 : 3;
/** Where the machine does other work, too, more samples are taken before the median is believed. */
const MOST_ROUNDS = SOAK ? 400 : 24;
const SAMPLE_MS = 250;
const SETTLE_MS = 100;
const DISK_BYTES = 64 * 1024 * 1024;
const FAIR: DiskOrder = { bytes: 4096, depth: 32, kind: 'write' };
const RIVALS: readonly (readonly [name: string, order: DiskOrder])[] = [
  ['writes of 1 MiB', { bytes: 1024 * 1024, depth: 32, kind: 'write' }],
  ['reads of 1 MiB', { bytes: 1024 * 1024, depth: 32, kind: 'read' }],
  ['512 writes at a time', { bytes: 4096, depth: 512, kind: 'write' }],
  ['flushes', { bytes: 4096, depth: 64, kind: 'flush' }],
];

const directory = mkdtempSync(join(tmpdir(), 'changeover-disks-'));
live.after(() => {
  endChildren();
  rmSync(directory, { recursive: true, force: true });
});

interface Partition {
  order(order: DiskOrder): void;
  /** Bytes so far. */
  done(): number;
}

/** The block process, and two partitions that wait for orders. */
async function scene(): Promise<readonly [victim: Partition, rival: Partition]> {
  const control = join(directory, 'control');
  node('src/daemon/processes/block.ts', '--control', control, '--lifeline');
  const channel = await ChannelClient.connect<DiskCommands, DiskEvents>(control, 'the block process', {
    waitMs: 30_000,
  });
  const partition = async (name: string): Promise<Partition> => {
    const socket = join(directory, name);
    await channel.execute('disk-add', { id: name, path: `${socket}.img`, create: String(DISK_BYTES) });
    await channel.execute('serve', { socket, exports: { disk: name } });
    const child = node('test/live/support/disk-pump.ts', socket, 'disk');
    const lines = createInterface({ input: child.stdout! });
    await once(lines, 'line');
    let done = 0;
    lines.on('line', (line) => {
      done = Number(line);
    });
    return { order: (order) => void child.stdin!.write(`${JSON.stringify(order)}\n`), done: () => done };
  };
  const both = await Promise.all([partition('victim'), partition('rival')]);
  channel.close();
  return both;
}

const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const median = (values: readonly number[]) => [...values].sort((a, b) => a - b)[values.length >> 1]!;
const mib = (bytes: number) => `${(bytes / 1024 / 1024).toFixed(1)} MiB/s`;

/** Bytes per second over one sample. */
async function rate(partition: Partition): Promise<number> {
  await wait(SETTLE_MS);
  const before = partition.done();
  const fromMs = performance.now();
  await wait(SAMPLE_MS);
  return (1000 * (partition.done() - before)) / (performance.now() - fromMs);
}

live(
  `V3: beside a partition that uses its disk to the full another one keeps ${100 * KEEPS} % of its share`,
  within(
    async () => {
      const [victim, rival] = await scene();
      victim.order(FAIR);
      rival.order(FAIR);
      await wait(500);
      const equal: number[] = [];
      const beside = RIVALS.map(() => [] as number[]);
      // Each beside the equal one of its round: what else the machine does changes from round to round.
      const kept = () => beside.map((values) => median(values.map((value, round) => value / equal[round]!)));
      const short = (part: number) => part < KEEPS;
      let round = 0;
      for (; round < ROUNDS || (round < MOST_ROUNDS && kept().some(short)); round++) {
        rival.order(FAIR);
        equal.push(await rate(victim));
        for (const [i, [, order]] of RIVALS.entries()) {
          rival.order(order);
          beside[i]!.push(await rate(victim));
        }
      }
      assert.ok(median(equal) > 0, 'the victim wrote nothing');
      for (const [i, part] of kept().entries()) {
        const [name] = RIVALS[i]!;
        const percent = `${(100 * part).toFixed(0)} %`;
        console.log(
          `beside ${name}: ${mib(median(beside[i]!))} of ${mib(median(equal))}, ${percent}, ${round} rounds`,
        );
        assert.not.ok(short(part), `beside ${name} it keeps ${percent}`);
      }
    },
    SOAK ? 3_600_000 : 120_000,
  ),
);

live.run();
