/** What the kernel's ext4 and ours make of each other's journals. The kernel mounts images over a loop device. */
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { Device } from '../../src/blockdev/index.ts';
import { createImage, FileStore, MemoryStore, mountExt4 } from '../../src/blockdev/index.ts';
import { assertClean } from '../blockdev/ext4/image.ts';
import { PowerCuts, RecordingDevice } from '../blockdev/ext4/power-cut.ts';
import { inScratch, liveSuite, seeded, within } from '../support/index.ts';

const live = liveSuite('live/ext4-kernel');
const test = existsSync('/dev/loop-control') ? live : live.skip;
const SIZE = 16 * 1024 * 1024;

async function mountedByKernel(image: string, at: string, body: () => Promise<void> | void): Promise<void> {
  mkdirSync(at, { recursive: true });
  execFileSync('mount', ['-o', 'loop', image, at], { stdio: 'pipe' });
  try {
    await body();
  } finally {
    execFileSync('umount', [at], { stdio: 'pipe' });
  }
}

async function loaded(path: string): Promise<MemoryStore> {
  const store = new MemoryStore(BigInt(SIZE));
  await store.writeAt(readFileSync(path), 0n);
  return store;
}

async function save(device: Device, path: string): Promise<void> {
  const bytes = Buffer.alloc(SIZE);
  await device.readAt(bytes, 0n);
  writeFileSync(path, bytes);
}

test(
  'the kernel puts our journal back',
  within(
    () =>
      seeded((random) =>
        inScratch(async (directory) => {
          const path = join(directory, 'image');
          await createImage({ path, sizeBytes: SIZE });
          const recording = new RecordingDevice(await loaded(path));
          const fs = await mountExt4(recording);
          // A block that begins with the journal's magic number.
          const escaped = Buffer.alloc(5000, 1);
          escaped.writeUInt32BE(0xc03b3998, 0);
          const done: number[] = [];
          for (let i = 0; i < 12; i++) {
            await fs.writeFile(`/f${i}`, escaped);
            const handle = await fs.open(`/f${i}`, 'r+');
            await handle.datasync();
            done.push(recording.events.length);
          }
          fs.abandon();
          const cuts = new PowerCuts(await loaded(path), recording.events);
          for (const [i, at] of done.entries()) {
            await cuts.advance(Math.min(at + 2, recording.events.length));
            await save(await cuts.cut(random, true), path);
            await mountedByKernel(path, join(directory, 'mnt'), () => {
              for (let k = 0; k <= i; k++) {
                assert.ok(readFileSync(join(directory, `mnt/f${k}`)).equals(escaped), `/f${k} after ${i}`);
              }
            });
            await assertClean(await loaded(path), `after the kernel, file ${i}`);
          }
        }),
      ),
    60_000,
  ),
);

test(
  "we put the kernel's journal back, in memory and on the disk",
  within(
    () =>
      inScratch(async (directory) => {
        const path = join(directory, 'image');
        const copy = join(directory, 'copy');
        await createImage({ path, sizeBytes: SIZE });
        const names: string[] = [];
        await mountedByKernel(path, join(directory, 'mnt'), () => {
          for (let i = 0; i < 40; i++) {
            mkdirSync(join(directory, `mnt/d${i}`));
            writeFileSync(join(directory, `mnt/d${i}/f`), `${i}`.repeat(2000));
            if (i % 3 === 2) execFileSync('rm', ['-r', join(directory, `mnt/d${i - 1}`)]);
            execFileSync('sync', ['-f', join(directory, 'mnt')]);
          }
          copyFileSync(path, copy);
        });
        for (let i = 0; i < 40; i++) if (i % 3 !== 1 || i + 1 >= 40) names.push(`d${i}`);
        const device = await loaded(copy);
        for (const readOnly of [true, false]) {
          const store = readOnly ? FileStore.open(copy, { readOnly }) : device;
          const fs = await mountExt4(store, { readOnly });
          const found = (await fs.readdir('/')).filter((name) => name !== 'lost+found').sort();
          assert.equal(found, [...names].sort());
          assert.is(await fs.readFile('/d39/f', 'utf8'), '39'.repeat(2000));
          if (!readOnly) await fs.writeFile('/ours', Buffer.alloc(100_000, 1));
          await fs.unmount();
          if (readOnly) await store.close();
        }
        await assertClean(device, 'after our recovery');
      }),
    60_000,
  ),
);

live.run();
