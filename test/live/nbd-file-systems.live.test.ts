/**
 * The kernel's file systems on an export: our server, nbdfuse, a loop device with direct I/O, ext4 and XFS.
 *
 * Taken down strictly from the top, each step awaited: umount, losetup -d, nbdfuse, server. Loop and FUSE devices belong to the
 * host; whatever happens, none is left.
 */
import { existsSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { SeededRandom } from '../../src/common/index.ts';
import { eventually, within } from '../support/index.ts';
import { inFolder, ok, programSuite, run } from './nbd-programs.ts';
import type { Child } from './support/tower.ts';
import { mount, raiseLoop, start, Tower } from './support/tower.ts';

const PROGRAMS = ['nbdfuse', 'losetup', 'fio', 'mkfs.ext4', 'e2fsck', 'mkfs.xfs', 'xfs_repair'];
const test = programSuite('live/nbd-file-systems', PROGRAMS);

const MIB = 1024 * 1024;
const SOAK = process.env['SOAK'] === '1';
const SERVE = new URL('../blockdev/nbd/serve-file.ts', import.meta.url).pathname;

interface Raised {
  readonly server: Child;
  readonly loop: string;
}

/** Server, nbdfuse and loop device over `image`. */
async function raise(tower: Tower, folder: string, image: string): Promise<Raised> {
  const socket = join(folder, 'socket');
  // A server that was killed leaves its own.
  rmSync(socket, { force: true });
  const server = start(process.execPath, ['--no-warnings', '--import', 'tsx', SERVE, image, socket]);
  tower.add(() => server.stop());
  await eventually('the server', () => existsSync(socket));
  const loop = await raiseLoop(tower, folder, `nbd+unix:///disk?socket=${socket}`);
  return { server, loop };
}

const FILE_SYSTEMS = [
  { name: 'ext4', sizeMib: 96, make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-fn'] },
  { name: 'xfs', sizeMib: 320, make: ['mkfs.xfs', '-q', '-f'], check: ['xfs_repair', '-n'] },
] as const;

for (const { name, sizeMib, make, check } of FILE_SYSTEMS) {
  const withImage = (body: (folder: string, image: string) => Promise<void>) =>
    inFolder((folder) => {
      const image = join(folder, 'disk.img');
      writeFileSync(image, '');
      truncateSync(image, sizeMib * MIB);
      return body(folder, image);
    });

  test(
    `${name}: fio verifies what it wrote, the file system is clean afterwards, deleted space is given back`,
    within(
      () =>
        withImage(async (folder, image) => {
          const tower = new Tower();
          try {
            const { loop } = await raise(tower, folder, image);
            await ok(...([...make, loop] as [string, ...string[]]));
            const at = join(folder, 'mnt');
            await mount(tower, loop, at);
            for (const [index, job] of [
              ['--rw=randwrite', '--bs=4k', '--fsync=64'],
              ['--rw=randrw', '--bsrange=512-64k', '--blockalign=512', '--fdatasync=16'],
              ['--rw=write', '--bs=1M', '--direct=1'],
            ].entries()) {
              const output = await ok(
                'fio',
                ...[`--name=job${index}`, `--directory=${at}`, '--ioengine=psync', ...job],
                ...[`--size=${SOAK ? 48 : 12}M`, '--randrepeat=0', '--verify=crc32c', '--verify_fatal=1'],
                '--verify_state_save=0',
                ...['--do_verify=1', '--unlink=1', `--loops=${SOAK ? 20 : 1}`],
              );
              assert.match(output, /err= 0/);
            }
            await ok('sync', '-f', at);
            const before = statSync(image).blocks;
            await ok('fstrim', at);
            assert.ok(statSync(image).blocks < before, 'fstrim reached the image as holes');
          } finally {
            await tower.down();
          }
          await ok(...([...check, image] as [string, ...string[]]));
        }),
      SOAK ? 600_000 : 60_000,
    ),
  );

  test(
    `${name}: kill -9 of the server under writes: they fail, and after a restart what was synced is there`,
    within(
      () =>
        withImage(async (folder, image) => {
          const kept = Buffer.from(new SeededRandom(7).fill(Buffer.alloc(3 * MIB)));
          const at = join(folder, 'mnt');
          const first = new Tower();
          try {
            const { server, loop } = await raise(first, folder, image);
            await ok(...([...make, loop] as [string, ...string[]]));
            await mount(first, loop, at);
            writeFileSync(join(at, 'kept'), kept, { flush: true });
            await ok('sync', '-f', at);
            const writer = run('fio', [
              ...['--name=late', `--directory=${at}`, '--rw=randwrite', '--bs=4k', '--size=8M'],
              ...['--fsync=8', '--time_based', '--runtime=30'],
            ]);
            await eventually('it writes', () => existsSync(join(at, 'late.0.0')));
            await server.stop('SIGKILL');
            // nbdfuse does not connect again (some versions abort): whoever writes is told.
            assert.is.not((await writer).code, 0);
          } finally {
            // XFS has shut itself down, ext4 has remounted itself read-only: both can be unmounted.
            await first.down();
          }
          const second = new Tower();
          try {
            const { loop } = await raise(second, folder, image);
            await mount(second, loop, at);
            assert.ok(readFileSync(join(at, 'kept')).equals(kept), 'the synced file');
          } finally {
            await second.down();
          }
          await ok(...([...check, image] as [string, ...string[]]));
        }),
      60_000,
    ),
  );
}

test.run();
