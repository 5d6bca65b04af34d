/** Real full file systems: a tmpfs of a few MiB for the write log or for the target of a copy. */
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { FileStore, hashDevice, verifyLog } from '../../src/blockdev/index.ts';
import { pairsIn, phase, refuse, Writers } from '../blockdev/copy/copy-support.ts';
import { errnoOf } from '../blockdev/device-compliance.ts';
import { eventually, inScratch, liveSuite, seeded, within } from '../support/index.ts';

const live = liveSuite('blockdev/disk-full');
const MIB = 1024 * 1024;

/** Runs `body` with a tmpfs of so many MiB, taken away afterwards. */
async function inTmpfs(
  mib: number,
  body: (directory: string, small: string) => Promise<void>,
): Promise<void> {
  await inScratch(async (directory) => {
    const small = join(directory, 'small');
    mkdirSync(small);
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${mib}m`, 'changeover-test', small]);
    try {
      await body(directory, small);
    } finally {
      execFileSync('umount', ['-l', small]);
    }
  });
}

live(
  'a full log disk spills: no write of the guest fails and the copy equals the source',
  within(
    () =>
      seeded((random) =>
        inTmpfs(2, async (directory, small) => {
          const pairs = pairsIn(directory, 1, 8 * MIB);
          const writers = new Writers(pairs.sources, random);
          const group = pairs.group({ logDirectory: small, logCapBytes: 2 ** 40, segmentBytes: 500_000 });
          await group.start();
          await phase(group, 'converged');
          await eventually('the spill', () => /ENOSPC/.test(group.progress().reason ?? ''), 15_000);
          assert.equal(writers.errors, []);
          const summary = await verifyLog(join(small, 'a-d0'));
          assert.equal(summary.findings, []);
          await group.cut({ fence: refuse, verify: true });
          await writers.stop();
          assert.is(await hashDevice(pairs.sources[0]!.store), await hashDevice(pairs.targets[0]!.store));
        }),
      ),
    60_000,
  ),
);

for (const [when, filled] of [
  ['becomes full', 0],
  ['has not room for its first segment', 2 * MIB],
] as const)
  live(
    `the disk of a reverse log ${when}: no write of the guest fails and the way back equals the disk`,
    within(
      () =>
        seeded((random) =>
          inTmpfs(2, async (directory, small) => {
            if (filled > 0) execFileSync('sh', ['-c', 'cat /dev/zero > "$0/full" 2>&- || true', small]);
            const pairs = pairsIn(directory, 1, 8 * MIB);
            const writers = new Writers(pairs.sources, random);
            const group = pairs.group({
              purpose: 'reverse',
              logDirectory: small,
              logCapBytes: 2 ** 40,
              segmentBytes: 500_000,
            });
            // What was written before the log was on is on both.
            const buffer = Buffer.alloc(8 * MIB);
            await writers.stop();
            await pairs.sources[0]!.store.readAt(buffer, 0n);
            await pairs.targets[0]!.store.writeAt(buffer, 0n);
            await group.start();
            const late = new Writers(pairs.sources, random);
            await eventually('the spill', () => /ENOSPC/.test(group.progress().reason ?? ''), 15_000);
            const before = late.writes;
            await eventually('writes go on', () => late.writes > before + 20);
            await late.stop();
            assert.equal(late.errors, []);
            await group.cut({ fence: refuse, verify: true });
            assert.is(await hashDevice(pairs.sources[0]!.store), await hashDevice(pairs.targets[0]!.store));
          }),
        ),
      60_000,
    ),
  );

live(
  'a full target disk fails the copy with ENOSPC, its target stays invalid, writes go on',
  within(
    () =>
      seeded((random) =>
        inTmpfs(2, async (directory, small) => {
          const pairs = pairsIn(directory, 1, 8 * MIB, (name) =>
            FileStore.open(join(name.startsWith('a') ? directory : small, `${name}.img`), {
              create: BigInt(8 * MIB),
            }),
          );
          await pairs.sources[0]!.top.writeAt(Buffer.alloc(8 * MIB, 1), 0n);
          const writers = new Writers(pairs.sources, random);
          const group = pairs.group();
          await group.start();
          assert.is(await phase(group, 'failed', 'converged'), 'failed');
          assert.match(group.progress().reason ?? '', /ENOSPC/);
          assert.ok(pairs.invalid(0));
          assert.is(await errnoOf(() => group.cut()), 'copy-failed');
          const before = writers.writes;
          await eventually('writes go on', () => writers.writes > before + 20);
          await writers.stop();
          assert.equal(writers.errors, []);
          for (const stack of [...pairs.sources, ...pairs.targets]) await stack.top.close();
        }),
      ),
    60_000,
  ),
);

live(
  'a full store tells ENOSPC and keeps what it had',
  within(() =>
    inTmpfs(1, async (_directory, small) => {
      const store = FileStore.open(join(small, 'a.img'), { create: BigInt(4 * MIB) });
      await store.writeAt(Buffer.alloc(4096, 1), 0n);
      assert.is(await errnoOf(() => store.writeAt(Buffer.alloc(3 * MIB, 2), BigInt(MIB))), 'ENOSPC');
      const out = Buffer.alloc(1);
      await store.readAt(out, 0n);
      assert.is(out[0], 1);
      await store.close();
    }),
  ),
);

live.run();
