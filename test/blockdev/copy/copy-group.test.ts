import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  FaultFilter,
  FileStore,
  FilterDevice,
  firstDifference,
  hashDevice,
  MemoryStore,
  verifyLog,
} from '../../../src/blockdev/index.ts';
import { SeededRandom } from '../../../src/common/index.ts';
import { eventually, inScratch, limitMs, seeded, Trials, within } from '../../support/index.ts';
import { errnoOf } from '../device-compliance.ts';
import { pairsIn, phase, refuse, Writers } from './copy-support.ts';

const copy = suite('blockdev/copy');
const MIB = 1024 * 1024;

copy(
  'under random writes the copy equals the source as of the cut, fenced',
  within(
    () =>
      seeded(async (random, seed) => {
        const trials = new Trials('S6: copies of two disks under writes', 10, 2000);
        for (; trials.more; trials.count++)
          await inScratch(async (directory) => {
            const pairs = pairsIn(directory, 2, 6 * MIB + 512);
            const writers = new Writers(pairs.sources, random);
            const group = pairs.group({ segmentBytes: MIB });
            await group.start();
            assert.match(pairs.invalid(0) ?? '', /target of copy/);
            await phase(group, 'converged');
            const cut = await group.cut({ fence: refuse, verify: true });
            await writers.stop();
            assert.ok(writers.errors.length > 0 && writers.errors.every((code) => code === 'EROFS'));
            for (const [i, source] of pairs.sources.entries()) {
              const sha256 = await hashDevice(source.store);
              assert.is(await hashDevice(pairs.targets[i]!.store), sha256);
              assert.is(cut.disks[i]?.proof?.unproven, 0);
              assert.is(pairs.invalid(i), undefined);
              assert.ok(source.fence.lateWrites > 0);
            }
            assert.is(group.progress().phase, 'cut');
          });
        trials.report(seed);
      }),
    limitMs(60_000),
  ),
);

copy(
  'without a fence writes go on, and the copy is proven as of the cut',
  within(
    () =>
      seeded((random) =>
        inScratch(async (directory) => {
          const pairs = pairsIn(directory, 1, 6 * MIB);
          const writers = new Writers(pairs.sources, random);
          const group = pairs.group();
          await group.start();
          await phase(group, 'converged');
          const cut = await group.cut({ verify: true });
          const after = writers.writes;
          await eventually('a write after the cut', () => writers.writes > after + 10);
          await writers.stop();
          assert.equal(writers.errors, []);
          assert.is(cut.disks[0]?.proof?.unproven, 0);
          assert.is(pairs.sources[0]!.trap.sink, undefined);
          const [source, target] = [pairs.sources[0]!.store, pairs.targets[0]!.store];
          assert.is.not(await firstDifference(source, target), undefined);
        }),
      ),
    30_000,
  ),
);

copy(
  'the disks of a group are cut at one instant: a writer that alternates is never seen half',
  within(
    () =>
      inScratch(async (directory) => {
        const pairs = pairsIn(directory, 2, MIB);
        const [first, second] = pairs.sources;
        let stopped = false;
        const counter = (async () => {
          const word = Buffer.alloc(4);
          for (let n = 1; !stopped; n++) {
            word.writeUInt32LE(n);
            await first!.top.writeAt(word, 0n);
            await second!.top.writeAt(word, 0n);
            await new Promise((resolve) => setImmediate(resolve));
          }
        })();
        const group = pairs.group();
        await group.start();
        await phase(group, 'converged');
        await group.cut();
        stopped = true;
        await counter;
        const values = [];
        for (const target of pairs.targets) {
          const word = Buffer.alloc(4);
          await target.store.readAt(word, 0n);
          values.push(word.readUInt32LE());
        }
        // The second may be one behind, never ahead: what was written later is not there without what was earlier.
        assert.ok(values[0]! - values[1]! === 0 || values[0]! - values[1]! === 1, values.join(' '));
        assert.ok(values[0]! > 0);
      }),
    30_000,
  ),
);

copy(
  'disks of a group can be cut one after the other; the rest goes on',
  within(() =>
    seeded((random) =>
      inScratch(async (directory) => {
        const pairs = pairsIn(directory, 2, 2 * MIB);
        const writers = new Writers([pairs.sources[1]!], random, 1);
        const group = pairs.group();
        await group.start();
        await phase(group, 'converged');
        await group.cut({ from: ['a-d0'] });
        assert.is(pairs.invalid(0), undefined);
        assert.ok(pairs.invalid(1));
        assert.is(await errnoOf(() => group.cut({ from: ['a-d0'] })), 'unknown-disk');
        await group.round();
        await group.cut({ fence: refuse });
        await writers.stop();
        assert.is(await hashDevice(pairs.sources[1]!.store), await hashDevice(pairs.targets[1]!.store));
        assert.is(await errnoOf(() => group.round()), 'unknown-disk');
      }),
    ),
  ),
);

copy(
  'a full target fails the copy, the target stays invalid and production goes on',
  within(() =>
    seeded((random) =>
      inScratch(async (directory) => {
        let full: FaultFilter | undefined;
        const pairs = pairsIn(directory, 1, 4 * MIB, (name) => {
          const store = new MemoryStore(4 * MIB);
          if (name.startsWith('a')) return store;
          full = new FaultFilter(store, new SeededRandom(1), [
            { operations: ['write'], errno: 'ENOSPC', after: 2 },
          ]);
          return full;
        });
        await pairs.sources[0]!.top.writeAt(Buffer.alloc(4 * MIB, 1), 0n);
        const writers = new Writers(pairs.sources, random);
        const group = pairs.group();
        await group.start();
        assert.is(await phase(group, 'failed', 'converged'), 'failed');
        assert.match(group.progress().reason ?? '', /ENOSPC/);
        assert.ok(pairs.invalid(0));
        assert.is(pairs.sources[0]!.trap.sink, undefined);
        assert.is(await errnoOf(() => group.cut()), 'copy-failed');
        const before = writers.writes;
        await eventually('writes go on', () => writers.writes > before + 20);
        await writers.stop();
        assert.equal(writers.errors, []);
      }),
    ),
  ),
);

copy(
  'an I/O error of the target at the cut fails the cut: no fence, target invalid, production goes on',
  within(() =>
    inScratch(async (directory) => {
      let broken: FaultFilter | undefined;
      const pairs = pairsIn(directory, 1, MIB, (name) => {
        if (name.startsWith('a')) return new MemoryStore(MIB);
        broken = new FaultFilter(new MemoryStore(MIB), new SeededRandom(1));
        return broken;
      });
      const group = pairs.group();
      await group.start();
      await phase(group, 'converged');
      broken!.setRules([{ operations: ['flush'], errno: 'EIO' }]);
      assert.is(await errnoOf(() => group.cut({ fence: refuse })), 'EIO');
      assert.is(group.progress().phase, 'failed');
      assert.ok(pairs.invalid(0));
      assert.is(pairs.sources[0]!.fence.mode, 'none');
      assert.not.ok(pairs.sources[0]!.gate.paused);
      await pairs.sources[0]!.top.writeAt(Buffer.alloc(512, 1), 0n);
    }),
  ),
);

copy(
  'a fence that cannot be put up fails the cut and is taken down where it was',
  within(() =>
    inScratch(async (directory) => {
      const pairs = pairsIn(directory, 2, MIB);
      const group = pairs.group();
      await group.start();
      await phase(group, 'converged');
      const fence = {
        ...refuse,
        raise: async (disk: (typeof pairs.sources)[number]) => {
          if (disk.id === 'a-d1') throw Object.assign(new Error('no room for the fence'), { code: 'ENOSPC' });
          disk.fence.raise('refuse');
        },
      };
      assert.is(await errnoOf(() => group.cut({ fence })), 'ENOSPC');
      for (const source of pairs.sources) {
        assert.is(source.fence.mode, 'none');
        await source.top.writeAt(Buffer.alloc(512, 1), 0n);
      }
      assert.ok(pairs.invalid(0));
      assert.ok(pairs.invalid(1));
    }),
  ),
);

copy(
  'a log at its cap spills and the copy is right all the same',
  within(
    () =>
      seeded((random) =>
        inScratch(async (directory) => {
          const spilled: string[] = [];
          const pairs = pairsIn(directory, 1, 6 * MIB);
          const writers = new Writers(pairs.sources, random);
          const group = pairs.group({ logCapBytes: 200_000, onSpill: (id) => spilled.push(id) });
          await group.start();
          await phase(group, 'converged');
          await eventually('the spill', () => spilled.length > 0);
          assert.match(group.progress().reason ?? '', /cap of 200000/);
          await group.cut({ fence: refuse });
          await writers.stop();
          assert.is(await hashDevice(pairs.sources[0]!.store), await hashDevice(pairs.targets[0]!.store));
          assert.equal(spilled, ['a-d0']);
        }),
      ),
    30_000,
  ),
);

copy(
  'a write of the source that fails while it is logged leaves source and copy equal',
  within(() =>
    inScratch(async (directory) => {
      let source: FaultFilter | undefined;
      const pairs = pairsIn(directory, 1, MIB, (name) => {
        if (name.startsWith('b')) return new MemoryStore(MIB);
        source = new FaultFilter(new MemoryStore(MIB), new SeededRandom(1));
        return source;
      });
      const group = pairs.group();
      await group.start();
      await phase(group, 'converged');
      source!.setRules([{ operations: ['write'], errno: 'EIO', times: 1 }]);
      assert.is(await errnoOf(() => pairs.sources[0]!.top.writeAt(Buffer.alloc(4096, 7), 8192n)), 'EIO');
      await group.cut({ fence: refuse, verify: true });
      assert.is(await hashDevice(pairs.sources[0]!.store), await hashDevice(pairs.targets[0]!.store));
    }),
  ),
);

copy(
  'cancelling while it copies ends it: logs off, target invalid, source writable',
  within(() =>
    inScratch(async (directory) => {
      const pairs = pairsIn(directory, 1, 8 * MIB);
      await pairs.sources[0]!.top.writeAt(Buffer.alloc(8 * MIB, 1), 0n);
      const group = pairs.group({ rateLimit: MIB });
      await group.start();
      await eventually('the first bytes', () => group.progress().copied > 0);
      assert.is(group.progress().phase, 'copying');
      assert.is(await errnoOf(() => group.cut()), 'busy');
      await group.cancel();
      await group.cancel();
      assert.is(group.progress().phase, 'cancelled');
      assert.ok(group.progress().copied < 8 * MIB);
      assert.is(pairs.sources[0]!.trap.sink, undefined);
      assert.ok(pairs.invalid(0));
      assert.is(await errnoOf(() => group.round()), 'cancelled');
    }),
  ),
);

copy(
  'progress counts bytes of data and promises a time only while copying outruns writing',
  within(() =>
    inScratch(async (directory) => {
      const pairs = pairsIn(directory, 1, 8 * MIB);
      await pairs.sources[0]!.top.writeAt(Buffer.alloc(2 * MIB, 1), BigInt(MIB));
      const group = pairs.group({ rateLimit: 4 * MIB });
      await group.start();
      const seen = await eventually('an estimate', () => {
        const progress = group.progress();
        return progress.etaMs === undefined ? undefined : progress;
      });
      assert.is(seen.total, 2 * MIB);
      assert.ok(seen.etaMs! > 0 && seen.etaMs! < 60_000);
      await phase(group, 'converged');
      assert.is(group.progress().etaMs, undefined);
      assert.is(group.progress().copied, 2 * MIB);
      await group.cancel();
    }),
  ),
);

copy(
  'holes stay holes from file to file inside the kernel; through the devices zero blocks become holes as well',
  within(() =>
    inScratch(async (directory) => {
      const size = 64 * MIB;
      for (const inKernel of [true, false]) {
        const files: FileStore[] = [];
        const pairs = pairsIn(directory, 1, size, (name) => {
          const path = join(directory, `${name}-${inKernel}.img`);
          const store = FileStore.open(path, { create: BigInt(size) });
          files.push(store);
          return inKernel ? store : new FilterDevice(store);
        });
        const [source] = pairs.sources;
        await source!.top.writeAt(Buffer.alloc(MIB, 1), BigInt(8 * MIB));
        await source!.top.writeAt(Buffer.alloc(8 * MIB, 0), BigInt(32 * MIB));
        await pairs.targets[0]!.store.writeAt(Buffer.alloc(MIB, 9), BigInt(16 * MIB));
        const group = pairs.group();
        await group.start();
        await phase(group, 'converged');
        await group.cut({ verify: true });
        // Where files share blocks, a clone has all of them.
        const data = group.progress().method === 'pipeline' ? MIB : 9 * MIB;
        assert.is(group.progress().method === 'pipeline', !inKernel);
        assert.ok(files[1]!.allocated() <= BigInt(data + 65_536));
        for (const stack of [...pairs.sources, ...pairs.targets]) await stack.top.close();
      }
    }),
  ),
);

copy(
  'a reverse log carries what was written since onto a disk that was equal, back and forth',
  within(
    () =>
      seeded((random) =>
        inScratch(async (directory) => {
          const pairs = pairsIn(directory, 1, 4 * MIB);
          for (let round = 0; round < 3; round++) {
            const logDirectory = join(directory, `r${round}`);
            const group = pairs.group({ purpose: 'reverse', name: `r${round}`, logDirectory });
            if (round === 0) {
              const writers = new Writers(pairs.sources, random, 1);
              const first = pairs.group();
              await first.start();
              await phase(first, 'converged');
              await first.cut({ fence: refuse });
              await writers.stop();
              pairs.sources[0]!.fence.lower();
            }
            await group.start();
            const more = new Writers(pairs.sources, random, 2);
            await eventually('some writes', () => more.writes > 200);
            assert.is(pairs.invalid(0), undefined, 'untouched until the first round');
            await group.round();
            assert.ok(pairs.invalid(0));
            await group.cut({ fence: refuse, verify: true });
            await more.stop();
            assert.is(await hashDevice(pairs.sources[0]!.store), await hashDevice(pairs.targets[0]!.store));
            assert.is(pairs.invalid(0), undefined);
            pairs.sources[0]!.fence.lower();
          }
        }),
      ),
    30_000,
  ),
);

copy(
  'a reverse log is gone on with by another process, as a damaged one is not',
  within(
    () =>
      seeded((random) =>
        inScratch(async (directory) => {
          const pairs = pairsIn(directory, 1, 2 * MIB);
          const resumed = () => pairs.group({ purpose: 'reverse', resume: true });
          const first = resumed();
          await first.start();
          let writers = new Writers(pairs.sources, random, 1);
          await eventually('some writes', () => writers.writes > 50);
          await writers.stop();
          await first.suspend();
          const log = join(directory, 'log', 'a-d0');
          const before = await verifyLog(log);
          const second = resumed();
          await second.start();
          writers = new Writers(pairs.sources, random, 1);
          await eventually('some writes', () => writers.writes > 50);
          await writers.stop();
          await second.suspend();
          const after = await verifyLog(log);
          assert.is(after.generation, before.generation);
          assert.ok(after.lastSequence > before.lastSequence);
          assert.equal(after.findings, []);
          // Damage in the middle: everything is compared, and the log is kept for people.
          const { readFileSync, writeFileSync } = await import('node:fs');
          const bytes = readFileSync(join(log, '00000001.wlog'));
          bytes[200]! ^= 1;
          writeFileSync(join(log, '00000001.wlog'), bytes);
          const third = resumed();
          await third.start();
          assert.ok(third.progress().delta >= 2 * MIB);
          assert.ok(readdirSync(join(directory, 'log')).some((name) => name.includes('unusable')));
          await third.cut({ fence: refuse, verify: true });
          assert.is(await hashDevice(pairs.sources[0]!.store), await hashDevice(pairs.targets[0]!.store));
        }),
      ),
    30_000,
  ),
);

copy(
  'the log of a copy that died is replaced, any other log in its place is refused',
  within(() =>
    inScratch(async (directory) => {
      const pairs = pairsIn(directory, 1, MIB);
      const dead = pairs.group();
      await dead.start();
      await dead.cancel();
      assert.ok(existsSync(join(directory, 'log', 'a-d0', '00000001.wlog')));
      const again = pairs.group();
      await again.start();
      await phase(again, 'converged');
      await again.cut();
      const reverse = pairs.group({ purpose: 'reverse', logDirectory: join(directory, 'back') });
      await reverse.start();
      await reverse.suspend();
      const wrong = pairs.group({ logDirectory: join(directory, 'back') });
      assert.is(await errnoOf(() => wrong.start()), 'log-exists');
      assert.is(pairs.sources[0]!.trap.sink, undefined);
    }),
  ),
);

copy.run();
