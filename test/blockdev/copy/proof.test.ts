/** A standby's disk is proven to be what its source is, and a standby's disk that is not is found. */
import { closeSync, openSync, readdirSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Device, WriteOptions } from '../../../src/blockdev/index.ts';
import {
  FileStore,
  FilterDevice,
  firstDifference,
  invalidMark,
  LEAF,
  leafTag,
  MemoryStore,
  ProofTree,
  TAG_BYTES,
} from '../../../src/blockdev/index.ts';
import type { SeededRandom } from '../../../src/common/index.ts';
import { eventually, inScratch, limitMs, seeded, Trials, within } from '../../support/index.ts';
import { errnoOf } from '../device-compliance.ts';
import { type Pairs, pairsIn, phase, refuse, Writers } from './copy-support.ts';

const proof = suite('blockdev/copy/proof');
const MIB = 1024 * 1024;

/** A disk that loses, shifts or alters one write, and says that all is well. */
class Lying extends FilterDevice {
  readonly #how: 'loses' | 'shifts' | 'flips';
  #left: number;
  lied = false;

  constructor(next: Device, how: 'loses' | 'shifts' | 'flips', afterWrites: number) {
    super(next);
    this.#how = how;
    this.#left = afterWrites;
  }

  override async writeAt(source: Uint8Array, offset: bigint, options?: WriteOptions): Promise<void> {
    if (this.lied || this.#left-- > 0) return this.next.writeAt(source, offset, options);
    const before = Buffer.alloc(source.length);
    await this.next.readAt(before, offset);
    // What stands there already is no lie.
    if (before.equals(source)) return this.next.writeAt(source, offset, options);
    this.lied = true;
    const end = offset + BigInt(source.length);
    if (this.#how === 'shifts' && end + 512n <= this.size)
      await this.next.writeAt(source, offset + 512n, options);
    if (this.#how !== 'flips') return;
    const flipped = Buffer.from(source);
    flipped[Math.floor(flipped.length / 2)]! ^= 1;
    await this.next.writeAt(flipped, offset, options);
  }
}

class CountingReads extends FilterDevice {
  bytes = 0;
  override readAt(target: Uint8Array, offset: bigint): Promise<void> {
    this.bytes += target.length;
    return this.next.readAt(target, offset);
  }
}

function flipBit(path: string, at: number): void {
  const fd = openSync(path, 'r+');
  const byte = Buffer.alloc(1);
  readSync(fd, byte, 0, 1, at);
  byte[0]! ^= 0x10;
  writeSync(fd, byte, 0, 1, at);
  closeSync(fd);
}

async function proven(pairs: Pairs, group: ReturnType<Pairs['group']>): Promise<void> {
  await phase(group, 'converged');
  await eventually('the proof', () => group.progress().proven === Number(pairs.sources[0]!.top.size), 15_000);
}

proof(
  'tags: another bit, another length or another leaf has another tag',
  within(() =>
    seeded((random) => {
      const key = Buffer.alloc(32, 7);
      const bytes = Buffer.from(Array.from({ length: 5000 }, () => random.below(256)));
      const tag = leafTag(key, 3, bytes);
      assert.is(tag.length, TAG_BYTES);
      assert.ok(leafTag(key, 3, Buffer.from(bytes)).equals(tag));
      for (let bit = 0; bit < 1000; bit++) {
        const at = random.below(bytes.length);
        bytes[at]! ^= 1 << (bit % 8);
        assert.not.ok(leafTag(key, 3, bytes).equals(tag));
        bytes[at]! ^= 1 << (bit % 8);
      }
      assert.not.ok(leafTag(key, 4, bytes).equals(tag));
      assert.not.ok(leafTag(key, 3, Buffer.concat([bytes, Buffer.alloc(1)])).equals(tag));
      assert.not.ok(leafTag(Buffer.alloc(32, 8), 3, bytes).equals(tag));
    }),
  ),
);

proof(
  'under writes: proven in the background, what was reflected since is compared in the pause, every byte is accounted for',
  within(
    () =>
      seeded(async (random) => {
        for (const verify of ['bounded', true] as const)
          for (let run = 0; run < 5; run++)
            await inScratch(async (directory) => {
              const pairs = pairsIn(directory, 1, 24 * MIB + 512);
              await pairs.sources[0]!.store.writeAt(Buffer.alloc(6 * MIB, run + 1), BigInt(MIB));
              const group = pairs.group();
              await group.start();
              await proven(pairs, group);
              const writers = new Writers(pairs.sources, random, 1);
              const before = writers.writes;
              await eventually('writes', () => writers.writes > before + 100);
              const cut = await group.cut({ fence: refuse, verify });
              await writers.stop();
              const { proof: told } = cut.disks[0]!;
              assert.is(told?.unproven, 0);
              assert.ok(told!.readBack >= 6 * MIB);
              assert.is(await firstDifference(pairs.sources[0]!.store, pairs.targets[0]!.store), undefined);
            });
      }),
    60_000,
  ),
);

for (const how of ['loses', 'shifts', 'flips'] as const)
  proof(
    `a standby's disk that ${how} a write, in the copy or in a round, is never called valid`,
    within(
      () =>
        seeded(async (random, seed) => {
          const trials = new Trials(`S7: the standby ${how} a write`, 15, 300);
          for (; trials.more; trials.count++) {
            // A lie that a later write put right is no trial.
            let counts = false;
            while (!counts)
              await inScratch(async (directory) => {
                counts = await lyingTrial(directory, random, how);
              });
          }
          trials.report(seed);
        }),
      limitMs(120_000),
    ),
  );

/** Whether the disk of the target differed at the end. */
async function lyingTrial(directory: string, random: SeededRandom, how: 'loses' | 'shifts' | 'flips') {
  let liar: Lying | undefined;
  const pairs = pairsIn(directory, 1, 6 * MIB, (name) => {
    if (name.startsWith('a')) return new MemoryStore(6 * MIB);
    liar = new Lying(new MemoryStore(6 * MIB), how, random.below(40));
    return liar;
  });
  for (let at = 0; at < 6 * MIB; at += 65_536)
    if (random.below(2) === 0)
      await pairs.sources[0]!.store.writeAt(Buffer.alloc(65_536, random.u32()), BigInt(at));
  const writers = new Writers(pairs.sources, random, 1);
  const group = pairs.group();
  await group.start();
  await phase(group, 'converged', 'failed');
  const before = writers.writes;
  await eventually('writes', () => writers.writes > before + random.below(200));
  const verify = random.below(2) === 0 ? true : ('bounded' as const);
  await writers.stop();
  if (verify === 'bounded') {
    await eventually(
      'the proof',
      () => group.progress().phase === 'failed' || group.progress().proven === 6 * MIB,
      15_000,
    );
    const more = new Writers(pairs.sources, random, 1);
    await eventually('writes', () => more.writes > random.below(50));
    await more.stop();
  }
  const outcome = await group.cut({ verify }).then(
    (cut) => cut.disks[0]!.proof!,
    (error) => (error as { code: string }).code,
  );
  const differs = await firstDifference(pairs.sources[0]!.store, pairs.targets[0]!.store);
  if (typeof outcome === 'string') {
    assert.ok(outcome === 'not-equal' || outcome === 'copy-failed', outcome);
    assert.ok(pairs.invalid(0), 'the target stays invalid');
    assert.is(pairs.sources[0]!.trap.sink, undefined, 'the source is rid of its log');
  } else {
    // A later write may have put right what the lie had left.
    assert.is(outcome.unproven, 0);
    assert.is(differs, undefined, `a difference at byte ${differs} was not found`);
  }
  return liar!.lied && differs !== undefined;
}

proof(
  'a bit that flips in the image of the standby after it was written, behind our back, is found',
  within(
    () =>
      seeded((random) =>
        inScratch(async (directory) => {
          const size = 40 * MIB;
          for (const when of ['after its proof', 'before its proof'] as const) {
            const scene = join(directory, when.replaceAll(' ', '-'));
            const path = (name: string) => join(scene, `${name}.img`);
            const pairs = pairsIn(scene, 1, size, (name) =>
              FileStore.open(path(name), { create: BigInt(size) }),
            );
            for (let at = 0; at < 32; at++)
              await pairs.sources[0]!.store.writeAt(Buffer.alloc(MIB, at + 1), BigInt(at * MIB));
            // Without the background the proof begins with the cut.
            const group = pairs.group({ proof: when === 'after its proof' });
            await group.start();
            if (when === 'after its proof') await proven(pairs, group);
            else await phase(group, 'converged');
            const at = random.below(size);
            flipBit(path('b-d0'), at);
            let found: unknown;
            await group.cut({ fence: refuse, verify: true }).catch((error) => {
              found = error;
            });
            assert.is((found as { code?: string })?.code, 'not-equal', `the flip at byte ${at}`);
            assert.match((found as Error).message, `differ at byte ${at}`);
            assert.ok(pairs.invalid(0));
            assert.is(pairs.sources[0]!.fence.mode, 'none', 'found before the fence was up');
            await pairs.sources[0]!.top.writeAt(Buffer.alloc(512, 9), 0n);
            for (const stack of [...pairs.sources, ...pairs.targets]) await stack.top.close();
          }
        }),
      ),
    60_000,
  ),
);

proof(
  'the background finds a difference by itself, long before a cut',
  within(
    () =>
      inScratch(async (directory) => {
        const pairs = pairsIn(directory, 1, 8 * MIB, (name) =>
          name.startsWith('a') ? new MemoryStore(8 * MIB) : new Lying(new MemoryStore(8 * MIB), 'flips', 3),
        );
        await pairs.sources[0]!.store.writeAt(Buffer.alloc(8 * MIB, 1), 0n);
        const group = pairs.group();
        await group.start();
        await phase(group, 'failed');
        assert.match(group.progress().reason ?? '', /b-d0 is not what a-d0 is: they differ at byte \d+/);
        assert.is(await errnoOf(() => group.cut()), 'copy-failed');
        assert.ok(pairs.invalid(0));
        await pairs.sources[0]!.top.writeAt(Buffer.alloc(512, 2), 0n);
      }),
    30_000,
  ),
);

proof(
  'holes of both sides are proven by their extent maps, and not read',
  within(() =>
    inScratch(async (directory) => {
      const size = 256 * MIB;
      const reads: CountingReads[] = [];
      const pairs = pairsIn(directory, 1, size, () => {
        const device = new CountingReads(new MemoryStore(size));
        reads.push(device);
        return device;
      });
      await pairs.sources[0]!.store.writeAt(Buffer.alloc(MIB, 1), BigInt(100 * MIB));
      await pairs.sources[0]!.store.writeAt(Buffer.alloc(100, 1), BigInt(size - 100));
      const group = pairs.group({ proof: false });
      await group.start();
      await phase(group, 'converged');
      const before = reads.map(({ bytes }) => bytes);
      const { proof: told } = (await group.cut({ verify: true })).disks[0]!;
      assert.equal(told?.unproven, 0);
      assert.equal(told?.proven, size);
      assert.is(told?.readBack, 2 * MIB);
      assert.equal(
        reads.map(({ bytes }, i) => bytes - before[i]!),
        [2 * MIB, 2 * MIB],
      );
    }),
  ),
);

proof(
  'what was hashed before a process ended is not hashed again by the next one, unless it was written since',
  within(
    () =>
      inScratch(async (directory) => {
        const size = 16 * MIB;
        const reads: CountingReads[] = [];
        const pairs = pairsIn(directory, 1, size, () => {
          const device = new CountingReads(new MemoryStore(size));
          reads.push(device);
          return device;
        });
        let generation: string | undefined;
        const logMark = {
          set: (value: string) => {
            generation = value;
          },
          get: () => generation,
          clear: () => {
            generation = undefined;
          },
        };
        const [from, to] = [pairs.sources[0]!, pairs.targets[0]!];
        await from.store.writeAt(Buffer.alloc(size, 1), 0n);
        const pair = { from, to, logMark, mark: invalidMark(join(directory, 'b-d0.img')) };
        const first = pairs.group({ pairs: [pair] });
        await first.start();
        await proven(pairs, first);
        const file = readdirSync(join(directory, 'log')).filter((name) => name.endsWith('.proof'));
        assert.equal(file, ['test.a-d0.proof']);
        await from.top.writeAt(Buffer.alloc(4096, 2), BigInt(5 * MIB));
        await first.suspend();
        const before = reads[0]!.bytes;
        const second = pairs.group({ pairs: [pair], resume: 'only' });
        await second.start();
        await proven(pairs, second);
        // What the journal had not kept of the copy, the last records, and the leaf that was written.
        const again = reads[0]!.bytes - before;
        assert.ok(again < 6 * MIB, `${again} bytes of the source were read again`);
        assert.is((await second.cut({ verify: true })).disks[0]?.proof?.unproven, 0);
        assert.equal(
          readdirSync(join(directory, 'log')).filter((name) => name.endsWith('.proof')),
          [],
        );
      }),
    30_000,
  ),
);

proof(
  'the tree: states, ranges, tags of another generation or size',
  within(() =>
    inScratch((directory) => {
      const tree = new ProofTree(3 * LEAF + 5);
      const tag = (byte: number) => Buffer.alloc(TAG_BYTES, byte);
      assert.is(tree.leaves, 4);
      assert.equal(tree.leaf(3), { index: 3, offset: 3 * LEAF, length: 5 });
      const file = join(directory, 'x.proof');
      tree.keepIn(file, Buffer.alloc(16, 1), Buffer.alloc(32, 2));
      for (let i = 0; i < 4; i++) {
        assert.is(tree.begin(i), undefined);
        tree.sent(i, tag(i + 1));
      }
      assert.ok(tree.begin(0)?.equals(tag(1)));
      tree.proven(0, tag(1));
      tree.touch(100, 50);
      tree.touch(140, 50);
      assert.equal(tree.touched(), [{ start: 100, end: 190 }]);
      assert.is(tree.next(0, false), 1);
      assert.is(tree.next(0, true), 0);
      tree.touch(0, LEAF / 2);
      assert.is(tree.next(0, false), 0, 'much of it was reflected onto: unknown');
      assert.ok(tree.begin(1)?.equals(tag(2)));
      tree.touch(LEAF + 1, 1);
      tree.proven(1, tag(2));
      assert.not.ok(tree.isProven(1), 'reflected onto while it was read back');
      tree.begin(2);
      assert.equal([tree.different(2), tree.begin(2), tree.different(2)], [1, undefined, 2]);
      tree.close();
      const next = new ProofTree(3 * LEAF + 5);
      assert.ok(Buffer.alloc(32, 2).equals(next.resumeFrom(file, Buffer.alloc(16, 1)) ?? Buffer.alloc(0)));
      assert.ok(next.begin(3)?.equals(tag(4)));
      next.close();
      assert.is(new ProofTree(3 * LEAF + 5).resumeFrom(file, Buffer.alloc(16, 9)), undefined);
      assert.is(new ProofTree(3 * LEAF).resumeFrom(file, Buffer.alloc(16, 1)), undefined);
      assert.is(new ProofTree(LEAF).resumeFrom(join(directory, 'none'), Buffer.alloc(16)), undefined);
    }),
  ),
);

proof.run();
