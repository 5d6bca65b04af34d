/** A copy taken without a freeze is a disk after a power cut. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { FileSystem } from '../../../src/blockdev/index.ts';
import { mountExt4 } from '../../../src/blockdev/index.ts';
import { eventually, inScratch, within } from '../../support/index.ts';
import { pairsIn, phase } from '../copy/copy-support.ts';
import { assertClean, freshDevice } from './image.ts';
import type { Told } from './records.ts';
import { assertAllThere, emitLine, emitVersion, FILES } from './records.ts';

const test = suite('blockdev/ext4/copy');
const SIZE = 16 * 1024 * 1024;

/** Writes until `stopped`; `told` is ahead of nothing. */
async function work(fs: FileSystem, told: Told, stopped: () => boolean): Promise<void> {
  await fs.mkdir('/d');
  const log = await fs.open('/log', 'a');
  for (let n = 0; !stopped(); n++) {
    await log.appendFile(emitLine(n));
    await log.datasync();
    told.log = n;
    if (n % 3 !== 0) continue;
    const file = n % FILES;
    await fs.writeFile('/d/new', emitVersion(file, n));
    await fs.rename('/d/new', `/d/${file}`);
    await fs.sync();
    told.versions.set(file, n);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

test(
  'copied under load and cut without a freeze, eight times: everything acknowledged before the cut is on the copy',
  within(async () => {
    for (let run = 0; run < 8; run++) {
      await inScratch(async (directory) => {
        const pairs = pairsIn(directory, 1, SIZE);
        const [source, target] = [pairs.sources[0]!, pairs.targets[0]!];
        const bytes = Buffer.alloc(SIZE);
        await (await freshDevice(SIZE)).readAt(bytes, 0n);
        await source.store.writeAt(bytes, 0n);
        const fs = await mountExt4(source.top);
        const told: Told = { log: -1, versions: new Map() };
        let stopped = false;
        const working = work(fs, told, () => stopped);
        const group = pairs.group();
        await group.start();
        await phase(group, 'converged');
        await eventually('records', () => told.log > 10 + 5 * run, 15_000);
        const before = { log: told.log, versions: new Map(told.versions) };
        await group.cut({});
        stopped = true;
        await working;
        await fs.unmount();
        const copy = await mountExt4(target.store);
        await assertAllThere(copy, before, `in run ${run}`);
        await copy.unmount();
        await assertClean(target.store, `the copy of run ${run}`);
        assert.ok(before.versions.size > 2, `${before.versions.size} files`);
      });
    }
  }, 120_000),
);

test.run();
