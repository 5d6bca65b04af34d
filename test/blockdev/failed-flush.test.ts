/**
 * S5: a failed flush is reported, once and for ever, by every layer that keeps something: the store, the write log, late writes
 * set aside, the halves of a mirror, the target of a copy, a file system of ours. Nothing asks the kernel again in the hope of a
 * better answer, in this process or in the next. Each fdatasync of a workload fails in turn.
 */
import fs, { readlinkSync, rmSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  createImage,
  DiskStack,
  FaultFilter,
  FileStore,
  invalidMark,
  LogAside,
  MemoryStore,
  MirrorGroup,
  mountExt4,
  NbdClient,
  WriteLog,
  WriteTrap,
} from '../../src/blockdev/index.ts';
import { SeededRandom } from '../../src/common/index.ts';
import { DiskService } from '../../src/hypervisor/index.ts';
import { eventually, inScratch, seeded, Trials, within } from '../support/index.ts';
import { pairsIn, phase, refuse } from './copy/copy-support.ts';
import { errnoOf } from './device-compliance.ts';

const test = suite('blockdev/failed-flush');
const MIB = 1024 * 1024;
/** On a busy machine as well. */
const unhurried = (body: () => Promise<unknown> | unknown) => within(body, 60_000);

/** How often fdatasync was asked of a file, and how often it failed. */
interface Syncs {
  asked: number;
  failed: number;
}

/** While `body` runs, the `nth` fdatasync of files whose path ends in `suffix` fails, once; later ones say that all is well. */
async function failing(suffix: string, nth: number, body: (syncs: Syncs) => Promise<void>): Promise<Syncs> {
  const { fdatasync } = fs;
  const syncs: Syncs = { asked: 0, failed: 0 };
  const ours = (fd: number, done: (error: Error | null) => void) => {
    if (!readlinkSync(`/proc/self/fd/${fd}`).endsWith(suffix)) return fdatasync(fd, done);
    if (++syncs.asked !== nth) return fdatasync(fd, done);
    syncs.failed++;
    setImmediate(() => done(Object.assign(new Error('EIO: i/o error, fdatasync'), { code: 'EIO' })));
  };
  Object.assign(fs, { fdatasync: ours });
  syncBuiltinESMExports();
  try {
    await body(syncs);
  } finally {
    Object.assign(fs, { fdatasync });
    syncBuiltinESMExports();
  }
  return syncs;
}

/** Runs `body` for the first, the second … fdatasync, until a run has fewer; returns how many failed. */
async function eachSync(
  suffix: string,
  body: (directory: string, syncs: Syncs) => Promise<void>,
): Promise<number> {
  for (let nth = 1; ; nth++) {
    let syncs: Syncs | undefined;
    await inScratch(async (directory) => {
      syncs = await failing(suffix, nth, (now) => body(directory, now));
    });
    if (syncs!.failed === 0) return nth - 1;
  }
}

const block = (byte: number) => Buffer.alloc(4096, byte);

/** Ten writes, some with FUA, a flush after each third; what each gave. */
async function workload(device: Pick<FileStore, 'writeAt' | 'flush'>): Promise<string[]> {
  const seen: string[] = [];
  for (let i = 0; i < 10; i++) {
    const fua = i % 5 === 4;
    const code = await errnoOf(() => device.writeAt(block(i), BigInt(i * 8192), { fua }));
    seen.push(`${fua ? 'fua' : 'write'}: ${code ?? 'ok'}`);
    if (i % 3 === 2) seen.push(`flush: ${(await errnoOf(() => device.flush())) ?? 'ok'}`);
  }
  return seen;
}

/** From the first EIO on: flushes EIO, writes EROFS. */
function isForEver(seen: readonly string[], name: string): void {
  const first = seen.findIndex((outcome) => outcome.endsWith('EIO'));
  assert.ok(first >= 0, `${name}: nobody was told`);
  for (const outcome of seen.slice(0, first)) assert.match(outcome, /: ok$/, name);
  for (const outcome of seen.slice(first + 1))
    assert.match(outcome, /^flush: EIO$|^(write|fua): EROFS$/, name);
}

test(
  'store, and store under a write log: the guest gets EIO, then EIO and EROFS for ever; the kernel is not asked again',
  unhurried(() =>
    seeded(async (_random, seed) => {
      const trials = new Trials('S5: failed flushes of a store', 10, 10);
      for (const logged of [false, true]) {
        trials.count += await eachSync('a.img', async (directory, syncs) => {
          const store = FileStore.open(join(directory, 'a.img'), { create: BigInt(MIB) });
          const trap = new WriteTrap(store);
          const log = WriteLog.create(join(directory, 'log'), {
            diskId: 'a',
            diskSize: store.size,
            purpose: 'copy',
          });
          if (logged) trap.attach(log);
          const seen = await workload(trap);
          if (syncs.failed > 0) {
            isForEver(seen, 'store');
            const { asked } = syncs;
            assert.is(await errnoOf(() => trap.flush()), 'EIO');
            assert.is(syncs.asked, asked, 'asked again');
            const out = Buffer.alloc(4096);
            await trap.readAt(out, 0n);
            assert.ok(out.equals(block(0)), 'reads go on');
          }
          await log.close();
          await store.close();
        });
      }
      trials.report(seed);
    }),
  ),
);

test(
  'write log: the guest is spared, the log is given up, everything is dirty, and it is not asked again',
  unhurried(async () => {
    const failures = await eachSync('.wlog', async (directory, syncs) => {
      const store = FileStore.open(join(directory, 'a.img'), { create: BigInt(MIB) });
      const trap = new WriteTrap(store);
      const log = WriteLog.create(join(directory, 'log'), {
        diskId: 'a',
        diskSize: store.size,
        purpose: 'copy',
      });
      trap.attach(log);
      const seen = await workload(trap);
      assert.ok(seen.every((outcome) => outcome.endsWith(': ok')));
      if (syncs.failed > 0) {
        assert.match(log.spilled ?? '', /cannot be made durable/);
        assert.is(log.dirtyBytes, MIB, 'only a comparison with the whole disk is certain');
        const { asked } = syncs;
        await trap.flush();
        assert.is(syncs.asked, asked);
      }
      await log.close();
      await store.close();
    });
    assert.ok(failures >= 4, `${failures}`);
  }),
);

test(
  'late writes set aside: the log is all there is of them, so flush and FUA fail for ever',
  unhurried(async () => {
    const failures = await eachSync('.wlog', async (directory, syncs) => {
      const aside = await LogAside.open(join(directory, 'aside'), { diskId: 'a', diskSize: BigInt(MIB) });
      const codes: (string | undefined)[] = [];
      for (let i = 0; i < 3; i++) {
        await errnoOf(() => aside.write('data', i * 4096, 4096, block(i)));
        codes.push(await errnoOf(() => aside.flush()));
      }
      if (syncs.failed > 0) {
        const first = codes.indexOf('EIO');
        assert.ok(first >= 0, 'nobody was told');
        assert.ok(
          codes.slice(first).every((code) => code === 'EIO'),
          `${codes}`,
        );
        assert.ok(
          ['ENOSPC', 'EIO'].includes((await errnoOf(() => aside.write('data', 0, 4096, block(9)))) ?? ''),
        );
        const out = Buffer.alloc(4096);
        await aside.overlay(out, 0);
        assert.ok(out.equals(block(0)), 'what was kept is still read back');
      }
      await aside.close();
    });
    assert.ok(failures >= 3, `${failures}`);
  }),
);

test(
  'through NBD and into the next process: flush EIO, writes EROFS, disk-status says why, until the note is taken away',
  unhurried(async () => {
    const failures = await eachSync('a.img', async (directory, syncs) => {
      const path = join(directory, 'a.img');
      const socket = join(directory, 'nbd.sock');
      const life = async (
        body: (client: NbdClient, service: DiskService) => Promise<void>,
        failures: string[] = [],
      ) => {
        const service = new DiskService({
          emit: (name) => void (name === 'DISK_FAILED' && failures.push(name)),
        });
        await service.add({ id: 'a', path, create: String(MIB) });
        await service.serve({ socket, exports: { a: 'a' } });
        const client = await NbdClient.connect(socket, 'a', { reconnectTimeoutMs: 0 });
        await body(client, service);
        await client.close();
        await service.close();
      };
      const told: string[] = [];
      await life(async (client) => {
        const seen = await workload(client);
        if (syncs.failed > 0) isForEver(seen, 'NBD');
      }, told);
      if (syncs.failed === 0) return;
      assert.equal(told, ['DISK_FAILED']);
      const { asked } = syncs;
      await life(async (client, service) => {
        assert.is(await errnoOf(() => client.flush()), 'EIO');
        assert.is(await errnoOf(() => client.writeAt(block(1), 0n)), 'EROFS');
        assert.is(await errnoOf(() => client.writeAt(block(1), 0n, { fua: true })), 'EROFS');
        assert.is(await errnoOf(() => client.trim(0n, 4096n)), 'EROFS');
        await client.readAt(Buffer.alloc(4096), 0n);
        assert.match(service.status({ id: 'a' })[0]?.failed ?? '', /fdatasync of .* failed/);
      });
      assert.is(syncs.asked, asked, 'the next process did not ask');
      rmSync(`${path}.failed`);
      await life(async (client) => {
        await client.writeAt(block(1), 0n, { fua: true });
        await client.flush();
      });
    });
    assert.ok(failures >= 5, `${failures}`);
  }),
);

for (const half of ['a', 'b'] as const)
  test(
    `mirror: a flush of half ${half} that fails drops it for ever, the guest goes on with the other one`,
    unhurried(() =>
      inScratch(async (directory) => {
        const faults = {
          a: new FaultFilter(new MemoryStore(MIB), new SeededRandom(1)),
          b: new FaultFilter(new MemoryStore(MIB), new SeededRandom(1)),
        };
        const [a, b] = [new DiskStack('a', faults.a), new DiskStack('b', faults.b)];
        const mark = invalidMark(join(directory, 'b'));
        const noted: string[] = [];
        const maps = { from: join(directory, 'a.mirror'), to: join(directory, 'b.mirror') };
        const onFirstDropped = (reason: string) => void noted.push(reason);
        const group = new MirrorGroup({ name: 'm', pairs: [{ from: a, to: b, mark, maps, onFirstDropped }] });
        await group.start();
        await eventually('joined', () => group.progress().phase === 'converged');
        await a.top.writeAt(block(1), 0n);
        faults[half].setRules([{ operations: ['flush'], errno: 'EIO', times: 1 }]);
        await a.top.flush();
        assert.match(group.progress().reason ?? '', new RegExp(`${half} failed and was dropped`));
        assert.is(noted.length, half === 'a' ? 1 : 0);
        assert.is(mark.get() === undefined, half === 'a', 'the valid half is the other one');
        const before = faults[half].injected;
        await a.top.writeAt(block(2), 0n, { fua: true });
        await a.top.flush();
        assert.is(faults[half].injected, before);
        const out = Buffer.alloc(4096);
        await faults[half === 'a' ? 'b' : 'a'].readAt(out, 0n);
        assert.ok(out.equals(block(2)));
        await faults[half].readAt(out, 0n);
        assert.ok(out.equals(block(1)), 'it is not used any more');
        assert.is(await errnoOf(() => group.cut()), 'copy-failed');
      }),
    ),
  );

test(
  'mirror: a first half whose failure cannot be noted stays, and the guest is told; the second one is dropped',
  unhurried(() =>
    inScratch(async (directory) => {
      const fault = new FaultFilter(new MemoryStore(MIB), new SeededRandom(1));
      const [a, b] = [new DiskStack('a', fault), new DiskStack('b', new MemoryStore(MIB))];
      const mark = invalidMark(join(directory, 'b'));
      const maps = { from: join(directory, 'a.mirror'), to: join(directory, 'b.mirror') };
      const onFirstDropped = () => {
        throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });
      };
      const group = new MirrorGroup({ name: 'm', pairs: [{ from: a, to: b, mark, maps, onFirstDropped }] });
      await group.start();
      await eventually('joined', () => group.progress().phase === 'converged');
      fault.setRules([{ operations: ['write'], errno: 'ENOSPC', times: 1 }]);
      assert.is(await errnoOf(() => a.top.writeAt(block(1), 0n)), 'ENOSPC');
      assert.ok(mark.get() !== undefined, 'the second half stays invalid');
      await a.top.writeAt(block(2), 0n);
      const out = Buffer.alloc(4096);
      await fault.readAt(out, 0n);
      assert.ok(out.equals(block(2)), 'the first half is the disk');
      assert.match(group.progress().reason ?? '', /b failed and was dropped/);
    }),
  ),
);

test(
  'copy: a target whose flush failed is never called good, not by a second copy onto it either',
  unhurried(async () => {
    const failures = await eachSync('b-d0.img', async (directory, syncs) => {
      const pairs = pairsIn(directory, 1, MIB, (name) =>
        FileStore.open(join(directory, `${name}.img`), { create: BigInt(MIB) }),
      );
      await pairs.sources[0]!.top.writeAt(block(1), 0n);
      const group = pairs.group();
      await group.start();
      await phase(group, 'converged', 'failed');
      const cut = await errnoOf(() => group.cut({ fence: refuse }));
      if (syncs.failed > 0) {
        assert.ok(cut !== undefined);
        assert.ok(pairs.invalid(0));
        await group.cancel();
        pairs.sources[0]!.fence.lower();
        const again = pairs.group({ name: 'again' });
        await again.start();
        assert.is(await phase(again, 'converged', 'failed'), 'failed');
        assert.ok(pairs.invalid(0));
      }
      for (const stack of [...pairs.sources, ...pairs.targets]) await stack.top.close();
    });
    assert.ok(failures >= 1, `${failures}`);
  }),
);

test(
  'our ext4: from a failed flush of its device on every fsync and every change fails',
  unhurried(() =>
    inScratch(async (directory) => {
      const path = join(directory, 'fs.img');
      await createImage({ path, sizeBytes: 8 * MIB });
      const fault = new FaultFilter(FileStore.open(path), new SeededRandom(1));
      const mounted = await mountExt4(fault);
      const file = await mounted.open('/f', 'w');
      await file.write(Buffer.from('one'));
      await file.sync();
      await file.write(Buffer.from('two'));
      fault.setRules([{ operations: ['flush'], errno: 'EIO', times: 1 }]);
      assert.is(await errnoOf(() => file.sync()), 'EIO');
      assert.is(await errnoOf(() => file.sync()), 'EIO');
      assert.is(fault.injected, 1);
      assert.ok(
        (await errnoOf(async () => {
          await mounted.writeFile('/g', 'three');
          await file.sync();
        })) !== undefined,
      );
      await errnoOf(() => mounted.unmount());
      await fault.close();
    }),
  ),
);

test.run();
