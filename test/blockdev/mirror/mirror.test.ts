import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { MirrorGroupOptions } from '../../../src/blockdev/index.ts';
import {
  DiskStack,
  FaultFilter,
  firstDifference,
  hashDevice,
  invalidMark,
  invalidReason,
  MemoryStore,
  MirrorGroup,
  MirrorMap,
} from '../../../src/blockdev/index.ts';
import { SeededRandom } from '../../../src/common/index.ts';
import { eventually, inScratch, limitMs, seeded, Trials, within } from '../../support/index.ts';
import { refuse, Writers } from '../copy/copy-support.ts';
import { errnoOf } from '../device-compliance.ts';

const mirror = suite('blockdev/mirror');
const MIB = 1024 * 1024;
/** On a busy machine as well. */
const unhurried = (body: () => Promise<unknown> | unknown) => within(body, 60_000);

/** Two disks over faults that can be set, and mirrors of them in either direction. */
class Scene {
  readonly a: DiskStack;
  readonly b: DiskStack;
  readonly faults: { readonly a: FaultFilter; readonly b: FaultFilter };
  readonly firstDropped: string[] = [];
  readonly #directory: string;

  constructor(directory: string, size: number) {
    this.#directory = directory;
    const store = () => new FaultFilter(new MemoryStore(size), new SeededRandom(1));
    this.faults = { a: store(), b: store() };
    this.a = new DiskStack('a', this.faults.a);
    this.b = new DiskStack('b', this.faults.b);
  }

  invalid(name: 'a' | 'b'): string | undefined {
    return invalidReason(join(this.#directory, name));
  }

  group(from: 'a' | 'b' = 'a', options: Partial<MirrorGroupOptions> = {}): MirrorGroup {
    const to = from === 'a' ? 'b' : 'a';
    return new MirrorGroup({
      name: 'm',
      pairs: [
        {
          from: this[from],
          to: this[to],
          mark: invalidMark(join(this.#directory, to)),
          maps: {
            from: join(this.#directory, `${from}.mirror`),
            to: join(this.#directory, `${to}.mirror`),
          },
          onFirstDropped: (reason) => this.firstDropped.push(reason),
        },
      ],
      ...options,
    });
  }
}

async function whole(group: MirrorGroup): Promise<void> {
  await eventually(
    `whole (is ${group.progress().phase})`,
    () => group.progress().phase === 'converged',
    15_000,
  );
}

async function same(scene: Scene): Promise<void> {
  assert.is(await hashDevice(scene.a.store), await hashDevice(scene.b.store));
}

mirror(
  'under random writes both halves are the same at the split, fenced',
  within(
    () =>
      seeded(async (random, seed) => {
        const trials = new Trials('S6: mirrors under writes', 10, 2000);
        for (; trials.more; trials.count++)
          await inScratch(async (directory) => {
            const scene = new Scene(directory, 4 * MIB + 512);
            await scene.a.store.writeAt(Buffer.alloc(2 * MIB, (trials.count % 200) + 1), BigInt(MIB));
            const writers = new Writers([scene.a], random);
            const group = scene.group();
            await group.start();
            assert.match(scene.invalid('b') ?? '', /second half/);
            await whole(group);
            const before = writers.writes;
            await eventually('writes to both halves', () => writers.writes > before + 200);
            const cut = await group.cut({ fence: refuse, verify: true });
            await writers.stop();
            assert.ok(writers.errors.every((code) => code === 'EROFS'));
            assert.is(cut.disks[0]?.proof?.unproven, 0);
            assert.is(scene.invalid('b'), undefined);
            await same(scene);
          });
        trials.report(seed);
      }),
    limitMs(60_000),
  ),
);

mirror(
  'after a split both sides write; joining them, in either direction, copies only what changed on either',
  unhurried(() =>
    seeded((random) =>
      inScratch(async (directory) => {
        const scene = new Scene(directory, 64 * MIB);
        await scene.a.store.writeAt(Buffer.alloc(32 * MIB, 1), 0n);
        let group = scene.group();
        assert.is(group.progress().total, 0);
        await group.start();
        await whole(group);
        await group.cut({ verify: true });
        for (const from of ['b', 'a', 'a'] as const) {
          const at = () => BigInt(random.below(63 * MIB));
          await scene.a.top.writeAt(Buffer.alloc(100_000, 2), at());
          await scene.b.top.writeAt(Buffer.alloc(100_000, 3), at());
          await scene.b.top.trim(at(), 70_000n);
          assert.is.not(await firstDifference(scene.a.store, scene.b.store), undefined);
          group = scene.group(from, { onlyChanges: true });
          await group.start();
          assert.ok(group.progress().total <= 9 * 65_536, `${group.progress().total}`);
          await whole(group);
          await scene[from].top.writeAt(Buffer.alloc(4096, 9), at());
          await group.cut({ fence: refuse, verify: true });
          await same(scene);
          scene[from].fence.lower();
        }
      }),
    ),
  ),
);

mirror(
  'halves that do not know of each other are copied as a whole, or not at all',
  unhurried(() =>
    inScratch(async (directory) => {
      const scene = new Scene(directory, MIB);
      assert.is(await errnoOf(() => scene.group('a', { onlyChanges: true }).start()), 'not-resumable');
      assert.not.ok(scene.a.mirror.mirrored);
      const group = scene.group();
      await group.start();
      await whole(group);
      await group.cut();
      // Somebody else made it the target of something.
      invalidMark(join(directory, 'b')).set('target of copy x from y');
      assert.is(await errnoOf(() => scene.group('a', { onlyChanges: true }).start()), 'not-resumable');
      const again = scene.group();
      await again.start();
      assert.is(again.progress().total, MIB);
      await whole(again);
      await again.cut({ verify: true });
    }),
  ),
);

mirror(
  'a resynchronisation that was interrupted goes on where it was',
  unhurried(() =>
    seeded((random) =>
      inScratch(async (directory) => {
        const scene = new Scene(directory, 16 * MIB);
        await scene.a.store.writeAt(Buffer.alloc(16 * MIB, 5), 0n);
        const first = scene.group('a', { rateLimit: 8 * MIB });
        await first.start();
        await eventually('some of it', () => first.progress().copied >= 8 * MIB);
        // So few that they cannot have changed all that was copied.
        const write = async (count: number) => {
          for (let i = 0; i < count; i++) {
            const offset = random.below(16 * MIB - 8192);
            await scene.a.top.writeAt(Buffer.alloc(1 + random.below(8192), random.u32()), BigInt(offset), {});
          }
        };
        await write(20);
        await first.suspend();
        await write(5);
        const next = scene.group('a', { onlyChanges: true });
        await next.start();
        assert.ok(next.progress().total < 16 * MIB, String(next.progress().total));
        const writers = new Writers([scene.a], random, 1);
        await whole(next);
        await next.cut({ fence: refuse, verify: true });
        await writers.stop();
        await same(scene);
      }),
    ),
  ),
);

mirror(
  'a second half that fails is dropped and told; writes go on, it is never valid, and is joined again later',
  unhurried(() =>
    seeded((random) =>
      inScratch(async (directory) => {
        for (const operation of ['write', 'flush'] as const) {
          const scene = new Scene(join(directory), 4 * MIB);
          const group = scene.group();
          await group.start();
          await whole(group);
          const writers = new Writers([scene.a], random);
          scene.faults.b.setRules([{ operations: [operation], errno: 'EIO', after: 3, times: 1 }]);
          await eventually('the drop', () => group.progress().dropped !== undefined);
          assert.match(group.progress().dropped ?? '', /^a: second: injected EIO/);
          assert.is(group.progress().phase, 'failed');
          assert.is(await errnoOf(() => group.cut()), 'copy-failed');
          assert.ok(scene.invalid('b'));
          const before = writers.writes;
          await eventually('writes go on', () => writers.writes > before + 20);
          const again = scene.group('a', { onlyChanges: true });
          await again.start();
          await whole(again);
          await again.cut({ fence: refuse, verify: true });
          await writers.stop();
          assert.ok(writers.errors.every((code) => code === 'EROFS'));
          await same(scene);
        }
      }),
    ),
  ),
);

mirror(
  'a first half that fails is dropped: the guest goes on with the second, also for what it reads',
  unhurried(() =>
    inScratch(async (directory) => {
      const scene = new Scene(directory, MIB);
      await scene.a.top.writeAt(Buffer.alloc(4096, 1), 0n);
      const group = scene.group();
      await group.start();
      await whole(group);
      scene.faults.a.setRules([{ operations: ['read'], errno: 'EIO', times: 1 }]);
      const block = Buffer.alloc(4096);
      await scene.a.top.readAt(block, 0n);
      assert.is(block[0], 1);
      assert.is(scene.a.mirror.readErrors, 1);
      scene.faults.a.setRules([{ operations: ['write', 'read'], errno: 'EIO' }]);
      await scene.a.top.writeAt(Buffer.alloc(4096, 2), 8192n);
      assert.equal(scene.firstDropped, ['injected EIO for write at 8192']);
      await scene.a.top.readAt(block, 8192n);
      assert.is(block[0], 2);
      assert.is(scene.invalid('b'), undefined, 'the second one is the disk now');
      assert.match(group.progress().reason ?? '', /^a failed and was dropped/);
      assert.is(await errnoOf(() => scene.group().start()), 'half-dropped');
    }),
  ),
);

mirror(
  'before everything is copied an error of the first half reaches the guest',
  unhurried(() =>
    inScratch(async (directory) => {
      const scene = new Scene(directory, 4 * MIB);
      await scene.a.top.writeAt(Buffer.alloc(4 * MIB, 1), 0n);
      const group = scene.group('a', { rateLimit: MIB });
      await group.start();
      scene.faults.a.setRules([{ operations: ['write'], errno: 'EIO', times: 1 }]);
      assert.is(await errnoOf(() => scene.a.top.writeAt(Buffer.alloc(512, 2), 0n)), 'EIO');
      assert.is(await errnoOf(() => group.cut()), 'busy');
      assert.is(scene.a.mirror.dropped, undefined);
      await group.cancel();
      assert.ok(scene.invalid('b'));
    }),
  ),
);

mirror(
  'a read error while halves are joined ends it: the second half stays invalid',
  unhurried(() =>
    inScratch(async (directory) => {
      const scene = new Scene(directory, 4 * MIB);
      await scene.a.top.writeAt(Buffer.alloc(4 * MIB, 1), 0n);
      scene.faults.a.setRules([{ operations: ['read'], errno: 'EIO', after: 2, times: 1 }]);
      const group = scene.group();
      await group.start();
      await eventually('the end', () => group.progress().phase === 'failed');
      assert.match(group.progress().reason ?? '', /EIO/);
      assert.ok(scene.invalid('b'));
      await scene.a.top.writeAt(Buffer.alloc(512, 2), 0n);
    }),
  ),
);

mirror(
  'the map: marks survive the process, a map of another size or boot is not used, a damaged one neither',
  unhurried(() =>
    inScratch(async (directory) => {
      const path = join(directory, 'x.mirror');
      const size = 5 * 1024 ** 4 + 512;
      const map = MirrorMap.create(path, 'ab', size, false);
      map.mark(2 ** 41 + 5, 70_000);
      map.mark(size - 1, 1);
      const again = MirrorMap.open(path, size)!;
      assert.is(again.generation, 'ab');
      const first = again.next(0)!;
      assert.is(first.start, 2 ** 41);
      assert.is(first.end, 2 ** 41 + 2 * 65_536);
      assert.equal(again.next(first.end), { start: 5 * 1024 ** 4, end: size });
      again.clear(first.start, first.end);
      again.clear(5 * 1024 ** 4, size);
      assert.is(again.next(0), undefined);
      assert.is(again.bytes, 0);
      assert.is(MirrorMap.open(path, size - 512), undefined);
      again.remove();
      assert.is(MirrorMap.open(path, size), undefined);
    }),
  ),
);

mirror.run();
