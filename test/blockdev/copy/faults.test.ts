/** S7: whatever fails while a standby's disk is made, the disk is never called valid, and production goes on. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Operation } from '../../../src/blockdev/index.ts';
import { FaultFilter, firstDifference, MemoryStore } from '../../../src/blockdev/index.ts';
import { SeededRandom } from '../../../src/common/index.ts';
import { eventually, inScratch, limitMs, seeded, Trials, within } from '../../support/index.ts';
import { errnoOf } from '../device-compliance.ts';
import { pairsIn, phase, refuse, Writers } from './copy-support.ts';

const faults = suite('blockdev/copy/faults');
const MIB = 1024 * 1024;

/** One fault at a random operation of the source or the target, under writes; returns how often it struck. */
async function trial(
  directory: string,
  random: SeededRandom,
  where: 'source' | 'target',
  operations: readonly Operation[],
): Promise<number> {
  const made: Record<string, FaultFilter> = {};
  const pairs = pairsIn(directory, 1, 4 * MIB, (name) => {
    const filter = new FaultFilter(new MemoryStore(4 * MIB), new SeededRandom(random.u32()));
    made[name.startsWith('a') ? 'source' : 'target'] = filter;
    return filter;
  });
  await pairs.sources[0]!.store.writeAt(Buffer.alloc(3 * MIB, 1), 0n);
  const writers = new Writers(pairs.sources, random, 2);
  const faulty = made[where]!;
  faulty.setRules([
    { operations, errno: random.below(2) === 0 ? 'EIO' : 'ENOSPC', after: random.below(3), times: 1 },
  ]);
  const group = pairs.group();
  await group.start();
  await phase(group, 'failed', 'converged');
  const cut = await errnoOf(() => group.cut({ fence: refuse, verify: true }));
  if (faulty.injected > 0) {
    assert.ok(cut !== undefined, 'a cut after a fault fails');
    assert.ok(pairs.invalid(0), 'the target is never called valid');
    assert.is(pairs.sources[0]!.fence.mode, 'none');
    const before = writers.writes;
    await eventually('writes go on', () => writers.writes > before + 5);
    await writers.stop();
    assert.equal(writers.errors, []);
  } else {
    await writers.stop();
    assert.is(await firstDifference(pairs.sources[0]!.store, pairs.targets[0]!.store), undefined);
  }
  return faulty.injected;
}

for (const { name, where, operations } of [
  { name: 'read errors of the source', where: 'source', operations: ['read'] },
  { name: 'write errors of the standby', where: 'target', operations: ['write', 'zeroes'] },
  { name: 'failed flushes of the standby', where: 'target', operations: ['flush'] },
] as const)
  faults(
    `${name}: the standby is never called valid`,
    within(
      () =>
        seeded(async (random, seed) => {
          const trials = new Trials(`S7: ${name}`, 20, 200);
          for (; trials.more; trials.count++)
            await inScratch(async (directory) => {
              // A fault that nothing ran into is no trial.
              while ((await trial(directory, random, where, operations)) === 0);
            });
          trials.report(seed);
        }),
      limitMs(120_000),
    ),
  );

faults.run();
