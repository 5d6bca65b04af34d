import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Device } from '../../src/blockdev/index.ts';
import {
  DelayFilter,
  DiskStack,
  FaultFilter,
  Fence,
  FileStore,
  LogAside,
  MemoryStore,
  MirrorDevice,
  MirrorMap,
  NbdClient,
  NbdServer,
  ReadOnlyFilter,
  StatsFilter,
  WindowFilter,
  WriteGate,
  WriteLog,
  WriteThrottle,
  WriteTrap,
} from '../../src/blockdev/index.ts';
import { SeededRandom } from '../../src/common/index.ts';
import type { Subject } from './device-compliance.ts';
import { complianceSuite, refusingSuite, SUBJECT_SIZE } from './device-compliance.ts';

const size = BigInt(SUBJECT_SIZE);

function over(wrap: (next: Device) => Device): () => Promise<Subject> {
  return async () => {
    const device = wrap(new MemoryStore(size));
    return { device, dispose: () => device.close() };
  };
}

function inDirectory(base: string, make: (directory: string) => Promise<Device> | Device) {
  return async (): Promise<Subject> => {
    const directory = mkdtempSync(join(base, 'changeover-compliance-'));
    const device = await make(directory);
    return {
      device,
      dispose: async () => {
        await device.close();
        rmSync(directory, { recursive: true, force: true });
      },
    };
  };
}

const file = (directory: string) => FileStore.open(join(directory, 'disk.img'), { create: size });

function logged(next: Device, directory: string): WriteTrap {
  const trap = new WriteTrap(next);
  trap.attach(
    WriteLog.create(join(directory, 'log'), {
      diskId: 'd',
      diskSize: size,
      purpose: 'copy',
      segmentBytes: 65_536,
    }),
  );
  return trap;
}

complianceSuite(
  'memory store',
  over((next) => next),
).run();
complianceSuite('file store', inDirectory(tmpdir(), file)).run();
complianceSuite('file store on tmpfs', inDirectory('/dev/shm', file)).run();
complianceSuite(
  'stats',
  over((next) => new StatsFilter(next)),
).run();
complianceSuite(
  'gate',
  over((next) => new WriteGate(next)),
).run();
complianceSuite(
  'throttle',
  over((next) => {
    const throttle = new WriteThrottle(next);
    throttle.limit(1_000_000_000, 1);
    return throttle;
  }),
).run();
complianceSuite(
  'mirror of one half',
  over((next) => new MirrorDevice(next)),
).run();
complianceSuite(
  'mirror of two halves',
  inDirectory(tmpdir(), (directory) => {
    const mirror = new MirrorDevice(new MemoryStore(size));
    mirror.track(MirrorMap.create(join(directory, 'map'), 'x', Number(size), true));
    mirror.attach(new MemoryStore(size));
    return mirror;
  }),
).run();
complianceSuite(
  'fence that is down',
  over((next) => new Fence(next)),
).run();
complianceSuite(
  'delay',
  over((next) => new DelayFilter(next, { writeMs: 0.01 })),
).run();
complianceSuite(
  'faults without a rule',
  over((next) => new FaultFilter(next, new SeededRandom(1))),
).run();
complianceSuite('window', async () => {
  const device = new WindowFilter(new MemoryStore(size + 8192n), 4096n, size);
  return { device, dispose: () => device.close() };
}).run();
complianceSuite(
  'trap without a log',
  over((next) => new WriteTrap(next)),
).run();
complianceSuite(
  'trap with a log',
  inDirectory(tmpdir(), (directory) => logged(new MemoryStore(size), directory)),
).run();
complianceSuite(
  'trap whose log has no room',
  inDirectory(tmpdir(), (directory) => {
    const trap = new WriteTrap(new MemoryStore(size));
    const options = { diskId: 'd', diskSize: size, purpose: 'copy' as const, capBytes: 70_000 };
    trap.attach(WriteLog.create(join(directory, 'log'), options));
    return trap;
  }),
).run();
complianceSuite(
  'fence that sets aside',
  inDirectory(tmpdir(), async (directory) => {
    const fence = new Fence(new MemoryStore(size));
    fence.raise('set-aside', await LogAside.open(join(directory, 'aside'), { diskId: 'd', diskSize: size }));
    return fence;
  }),
).run();
complianceSuite(
  'the stack of a disk over a file',
  inDirectory(tmpdir(), (directory) => new DiskStack('d', file(directory)).top),
).run();
complianceSuite(
  'the stack of a disk over a file, logged',
  inDirectory(tmpdir(), (directory) => {
    const stack = new DiskStack('d', file(directory));
    const options = { diskId: 'd', diskSize: size, purpose: 'copy' as const };
    stack.trap.attach(WriteLog.create(join(directory, 'log'), options));
    return stack.top;
  }),
).run();

/** A client of a server in the same process; closing it ends both. */
async function overNbd(next: Device, directory: string): Promise<Subject> {
  const server = new NbdServer();
  const socket = join(directory, 'nbd.sock');
  await server.setExports(new Map([['disk', next]]));
  await server.listen(socket);
  const device = await NbdClient.connect(socket, 'disk');
  return {
    device,
    dispose: async () => {
      await device.close();
      await server.close();
      await next.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

const scratch = () => mkdtempSync(join(tmpdir(), 'changeover-compliance-'));

complianceSuite(
  'NBD client of a memory store',
  () => overNbd(new MemoryStore(size), scratch()),
  'ENOSPC',
).run();
complianceSuite(
  'NBD client of the stack of a disk over a file',
  () => {
    const directory = scratch();
    return overNbd(new DiskStack('d', file(directory)).top, directory);
  },
  'ENOSPC',
).run();

/** A store with what `refusingSuite` expects. */
async function written<T extends Device>(store: T): Promise<T> {
  await store.writeAt(Buffer.alloc(4096, 3), 4096n);
  return store;
}

function refusing(wrap: (next: Device) => Device): () => Promise<Subject> {
  return async () => {
    const device = wrap(await written(new MemoryStore(size)));
    return { device, dispose: () => device.close() };
  };
}

refusingSuite(
  'read-only',
  refusing((next) => new ReadOnlyFilter(next)),
).run();
refusingSuite(
  'fence that refuses',
  refusing((next) => {
    const fence = new Fence(next);
    fence.raise('refuse');
    return fence;
  }),
).run();
refusingSuite(
  'the stack of a disk that is fenced',
  refusing((next) => {
    const stack = new DiskStack('d', next);
    stack.fence.raise('refuse');
    return stack.top;
  }),
).run();
refusingSuite(
  'file store opened read-only',
  inDirectory(tmpdir(), async (directory) => {
    await (await written(file(directory))).close();
    return FileStore.open(join(directory, 'disk.img'), { readOnly: true });
  }),
).run();
refusingSuite('NBD client of a read-only export', async () =>
  overNbd(new ReadOnlyFilter(await written(new MemoryStore(size))), scratch()),
).run();
