/** Filters in any order over each other: what one of them promises, a stack of them does. */
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Device } from '../../src/blockdev/index.ts';
import {
  DelayFilter,
  FaultFilter,
  Fence,
  FileStore,
  LogAside,
  MemoryStore,
  MirrorDevice,
  MirrorMap,
  NbdClient,
  NbdServer,
  replayLog,
  StatsFilter,
  WindowFilter,
  WriteGate,
  WriteLog,
  WriteThrottle,
  WriteTrap,
  walkExtents,
} from '../../src/blockdev/index.ts';
import { SeededRandom } from '../../src/common/index.ts';
import { inScratch, limitMs, seeded, Trials, within } from '../support/index.ts';
import { errnoOf, modelCheck, SUBJECT_SIZE } from './device-compliance.ts';

const stacks = suite('blockdev/stacks');
const MARGIN = 8192n;

/** What a stack leaves to be looked at, and to be ended. */
interface Scene {
  readonly directory: string;
  /** Before the stack is closed: looks that something holds what it should. */
  readonly looks: (() => Promise<void>)[];
  /** When it is closed. */
  readonly ends: (() => Promise<unknown>)[];
  serial: number;
}

type Wrap = (next: Device, scene: Scene) => Device | Promise<Device>;

const path = (scene: Scene, name: string) => join(scene.directory, `${scene.serial++}-${name}`);

/** With a log: what the log says must be what the device came to hold. */
function logged(next: Device, scene: Scene): Device {
  const directory = path(scene, 'log');
  const log = WriteLog.create(directory, {
    diskId: 'd',
    diskSize: next.size,
    purpose: 'copy',
    segmentBytes: 262_144,
  });
  const trap = new WriteTrap(next);
  trap.attach(log);
  scene.looks.push(async () => {
    await log.close();
    const replayed = new MemoryStore(next.size);
    await replayLog(directory, replayed);
    await same(next, replayed);
  });
  return trap;
}

function mirrored(next: Device, scene: Scene): Device {
  const second = new MemoryStore(next.size);
  const mirror = new MirrorDevice(next);
  mirror.track(MirrorMap.create(path(scene, 'map'), 'x', Number(next.size), true));
  mirror.attach(second);
  scene.looks.push(() => same(next, second));
  return mirror;
}

async function overNbd(next: Device, scene: Scene): Promise<Device> {
  const server = new NbdServer();
  const socket = path(scene, 's');
  await server.setExports(new Map([['', next]]));
  await server.listen(socket);
  scene.ends.push(() => server.close());
  return NbdClient.connect(socket, '');
}

const FILTERS: Readonly<Record<string, Wrap>> = {
  stats: (next) => new StatsFilter(next),
  gate: (next) => new WriteGate(next),
  throttle: (next) => {
    const throttle = new WriteThrottle(next);
    throttle.limit(1_000_000_000, 1);
    return throttle;
  },
  delay: (next) => new DelayFilter(next, { writeMs: 0.01 }),
  faults: (next) => new FaultFilter(next, new SeededRandom(1)),
  fence: (next) => new Fence(next),
  aside: async (next, scene) => {
    const fence = new Fence(next);
    const disk = { diskId: 'd', diskSize: next.size };
    fence.raise('set-aside', await LogAside.open(path(scene, 'aside'), disk));
    return fence;
  },
  trap: (next) => new WriteTrap(next),
  log: logged,
  half: (next) => new MirrorDevice(next),
  mirror: mirrored,
  window: (next) => new WindowFilter(next, MARGIN / 2n, next.size - MARGIN),
  nbd: overNbd,
};

async function same(a: Device, b: Device): Promise<void> {
  const [left, right] = [Buffer.alloc(Number(a.size)), Buffer.alloc(Number(b.size))];
  await Promise.all([a.readAt(left, 0n), b.readAt(right, 0n)]);
  assert.ok(left.equals(right), 'the other one holds something else');
}

async function honestExtents(device: Device): Promise<void> {
  let at = 0n;
  for await (const { offset, length, zero } of walkExtents(device, 0n, device.size)) {
    assert.is(offset, at);
    at += length;
    if (!zero) continue;
    const bytes = Buffer.alloc(Number(length), 1);
    await device.readAt(bytes, offset);
    assert.ok(bytes.every((byte) => byte === 0));
  }
  assert.is(at, device.size);
}

stacks(
  'two to six filters over a store, drawn at random: a model in memory agrees, logs and halves hold the same',
  within(
    () =>
      seeded(async (random, seed) => {
        const trials = new Trials('stacks of filters', 12, 2000);
        for (; trials.more; trials.count++)
          await inScratch(async (directory) => {
            const names = Array.from(
              { length: 2 + random.below(5) },
              () => Object.keys(FILTERS)[random.below(Object.keys(FILTERS).length)]!,
            );
            const windows = names.filter((name) => name === 'window').length;
            const size = BigInt(SUBJECT_SIZE) + MARGIN * BigInt(windows);
            const scene: Scene = { directory, looks: [], ends: [], serial: 0 };
            const store =
              random.below(2) === 0
                ? new MemoryStore(size)
                : FileStore.open(join(directory, 'disk.img'), { create: size });
            const layers: Device[] = [store];
            for (const name of names) layers.push(await FILTERS[name]!(layers.at(-1)!, scene));
            const top = layers.at(-1)!;
            const told = `${store.constructor.name} < ${names.join(' < ')}`;
            try {
              assert.is(top.size, BigInt(SUBJECT_SIZE));
              await modelCheck(top, random);
              await honestExtents(top);
              await top.flush();
              for (const look of scene.looks) await look();
              await top.close();
              assert.is(await errnoOf(() => top.readAt(Buffer.alloc(1), 0n)), 'ESHUTDOWN');
            } catch (error) {
              console.error(`failed: ${told}`);
              throw error;
            } finally {
              for (const layer of layers.reverse()) await layer.close().catch(() => {});
              for (const end of scene.ends.reverse()) await end();
            }
          });
        trials.report(seed);
      }),
    limitMs(60_000),
  ),
);

stacks.run();
