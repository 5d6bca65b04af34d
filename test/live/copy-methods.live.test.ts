/** Copies by reflink on a real XFS; the longest time that a guest waits while disks are copied. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { FileStore, hashDevice } from '../../src/blockdev/index.ts';
import { pairsIn, phase, refuse, Writers } from '../blockdev/copy/copy-support.ts';
import { inScratch, limitMs, liveSuite, seeded, Trials, within } from '../support/index.ts';

const live = liveSuite('blockdev/copy-methods');
const MIB = 1024 * 1024;

/** Whether an XFS can be made and mounted here. */
async function inXfs(body: (directory: string) => Promise<void>): Promise<void> {
  await inScratch(async (scratch) => {
    const image = join(scratch, 'xfs.img');
    const mounted = join(scratch, 'xfs');
    mkdirSync(mounted);
    try {
      execFileSync('truncate', ['-s', '400M', image]);
      execFileSync('mkfs.xfs', ['-q', '-m', 'reflink=1', image], { stdio: 'pipe' });
      execFileSync('mount', ['-o', 'loop', image, mounted], { stdio: 'pipe' });
    } catch (error) {
      if (process.env['CI'] === 'true') throw error;
      console.error(`no XFS can be mounted here, reflink is not tested: ${String(error)}`);
      return;
    }
    try {
      await body(mounted);
    } finally {
      execFileSync('umount', [mounted]);
    }
  });
}

live(
  'on a file system that shares blocks a copy is a clone, and equals the source as of the cut under writes',
  within(
    () =>
      seeded((random, seed) =>
        inXfs(async (directory) => {
          const trials = new Trials('S6: clones on XFS under writes', 10, 2000);
          for (; trials.more; trials.count++) {
            const run = trials.count;
            const pairs = pairsIn(join(directory, `${run}`), 1, 8 * MIB, (name) =>
              FileStore.open(join(directory, `${run}`, `${name}.img`), { create: BigInt(8 * MIB) }),
            );
            await pairs.sources[0]!.top.writeAt(Buffer.alloc(6 * MIB, (run % 200) + 1), BigInt(MIB));
            const writers = new Writers(pairs.sources, random);
            const group = pairs.group();
            await group.start();
            await phase(group, 'converged');
            assert.is(group.progress().method, 'reflink');
            await group.cut({ fence: refuse, verify: true });
            await writers.stop();
            const [source, target] = [pairs.sources[0]!.store, pairs.targets[0]!.store];
            assert.is(await hashDevice(source), await hashDevice(target));
            for (const stack of [...pairs.sources, ...pairs.targets]) await stack.top.close();
            rmSync(join(directory, `${run}`), { recursive: true });
          }
          trials.report(seed);
        }),
      ),
    limitMs(60_000),
  ),
);

live(
  'while 192 MiB are copied inside the kernel no read or write of a guest waits long',
  within(
    () =>
      inScratch(async (directory) => {
        const size = 192 * MIB;
        const pairs = pairsIn(directory, 1, size, (name) =>
          FileStore.open(join(directory, `${name}.img`), { create: BigInt(size) }),
        );
        const [source] = pairs.sources;
        for (let at = 0; at < size; at += MIB)
          await source!.store.writeAt(Buffer.alloc(MIB, at / MIB + 1), BigInt(at));
        const group = pairs.group();
        await group.start();
        let longestMs = 0;
        let operations = 0;
        const block = Buffer.alloc(4096, 7);
        const startedMs = performance.now();
        while (group.progress().phase === 'copying') {
          const beganMs = performance.now();
          const at = BigInt((operations * 4096 * 37) % (size - 4096));
          if (operations++ % 2 === 0) await source!.top.writeAt(block, at);
          else await source!.top.readAt(Buffer.alloc(4096), at);
          longestMs = Math.max(longestMs, performance.now() - beganMs);
          await new Promise((resolve) => setImmediate(resolve));
        }
        const tookMs = performance.now() - startedMs;
        console.log(
          `copy: ${Math.round(size / MIB / (tookMs / 1000))} MiB/s, ${operations} guest operations, longest ${longestMs.toFixed(1)} ms`,
        );
        assert.is(group.progress().method, 'kernel');
        assert.ok(operations > 20);
        assert.ok(longestMs < 5000);
        await group.cancel();
        for (const stack of [...pairs.sources, ...pairs.targets]) await stack.top.close();
      }),
    60_000,
  ),
);

live.run();
