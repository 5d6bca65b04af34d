/** Our server under QEMU's block layer: qemu-img, qemu-io. */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { FileStore, MemoryStore } from '../../src/blockdev/index.ts';
import { within } from '../support/index.ts';
import { inFolder, ok, programSuite, run, served } from './nbd-programs.ts';

const test = programSuite('live/nbd-qemu', ['qemu-img', 'qemu-io']);

const MIB = 1024 * 1024;

test(
  'qemu-img info, map, convert in both directions, compare',
  within(
    () =>
      inFolder(async (folder) => {
        const original = join(folder, 'original.img');
        const bytes = Buffer.alloc(16 * MIB);
        for (let at = 0; at < bytes.length; at += 4 * MIB) bytes.fill(`${at} `, at, at + MIB);
        writeFileSync(original, bytes);
        const disk = FileStore.open(join(folder, 'disk.img'), { create: BigInt(16 * MIB) });
        await served({ disk }, async (uri) => {
          const info = JSON.parse(await ok('qemu-img', 'info', '--output=json', uri('disk')));
          assert.equal([info['format'], info['virtual-size']], ['raw', 16 * MIB]);
          await ok('qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', original, uri('disk'));
          await ok('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', original, uri('disk'));
          const map = JSON.parse(await ok('qemu-img', 'map', '-f', 'raw', '--output=json', uri('disk')));
          assert.equal(
            map.map((e: Record<string, unknown>) => [e['start'], e['length'], e['zero']]),
            [0, 4, 8, 12].flatMap((at) => [
              [at * MIB, MIB, false],
              [(at + 1) * MIB, 3 * MIB, true],
            ]),
          );
          const back = join(folder, 'back.qcow2');
          await ok('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', uri('disk'), back);
          await ok('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', back, original);
          const differing = Buffer.from(bytes);
          differing[9 * MIB] = 1;
          writeFileSync(original, differing);
          assert.is(
            (await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', original, uri('disk')])).code,
            1,
          );
        });
        assert.ok(readFileSync(join(folder, 'disk.img')).equals(bytes));
      }),
    30_000,
  ),
);

test(
  'qemu-io: patterns, FUA, write zeroes with and without unmap, discard, flush, beyond the end',
  within(async () => {
    const store = new MemoryStore(8 * MIB);
    await served({ disk: store }, async (uri, server) => {
      const io = (...commands: string[]) =>
        ok(
          'qemu-io',
          '-f',
          'raw',
          '-t',
          'writeback',
          '-d',
          'unmap',
          ...commands.flatMap((c) => ['-c', c]),
          uri('disk'),
        );
      await io('write -P 0x5a 0 1M', 'write -P 0xa5 -f 1M 64k', 'read -P 0x5a 0 1M', 'read -P 0xa5 1M 64k');
      assert.ok(store.flushes >= 1, 'write -f is durable');
      await io('write -z 0 64k', 'write -z -u 64k 64k', 'write -z -f 128k 64k', 'read -P 0 0 192k');
      await io('discard 256k 256k', 'read -P 0 256k 256k', 'read -P 0x5a 512k 512k', 'flush');
      await io(
        'aio_write -P 1 2M 1M',
        'aio_write -P 2 3M 1M',
        'aio_flush',
        'read -P 1 2M 1M',
        'read -P 2 3M 1M',
      );
      await io('write -P 7 1000 3000', 'read -P 7 1000 3000');
      assert.is.not((await run('qemu-io', ['-f', 'raw', '-c', 'read 8M 512', uri('disk')])).code, 0);
      const counters = server.counters();
      for (const name of ['reads', 'writes', 'writeZeroes', 'trims', 'flushes']) {
        assert.ok(counters[name]! > 0, name);
      }
      assert.is(counters['refusedRequests'], 0);
    });
  }, 30_000),
);

test(
  'qemu-img bench: many requests at once',
  within(
    () =>
      inFolder(async (folder) => {
        const file = join(folder, 'disk.img');
        writeFileSync(file, '');
        truncateSync(file, 64 * MIB);
        await served({ disk: FileStore.open(file) }, async (uri, server) => {
          await ok('qemu-img', 'bench', '-f', 'raw', '-c', '4000', '-d', '64', '-s', '4096', uri('disk'));
          await ok(
            'qemu-img',
            'bench',
            '-w',
            '-f',
            'raw',
            '-c',
            '4000',
            '-d',
            '64',
            '-s',
            '65536',
            uri('disk'),
          );
          assert.ok(server.counters()['writes']! >= 4000);
        });
      }),
    30_000,
  ),
);

test(
  'qemu-img create, convert, check and compare of a qcow2 image that lives in an export',
  within(
    () =>
      inFolder(async (folder) => {
        const original = join(folder, 'original.img');
        const bytes = Buffer.alloc(8 * MIB);
        for (let at = 0; at < bytes.length; at += 2 * MIB) bytes.fill(`${at} `, at, at + MIB);
        writeFileSync(original, bytes);
        await served({ disk: new MemoryStore(12 * MIB) }, async (uri, server) => {
          await ok('qemu-img', 'create', '-q', '-f', 'qcow2', uri('disk'), '8M');
          await ok('qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'qcow2', original, uri('disk'));
          const check = JSON.parse(
            await ok('qemu-img', 'check', '-f', 'qcow2', '--output=json', uri('disk')),
          );
          assert.equal([check['check-errors'], check['leaks'] ?? 0, check['corruptions'] ?? 0], [0, 0, 0]);
          await ok('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', original, uri('disk'));
          assert.is(server.counters()['refusedRequests'], 0);
          assert.is(server.counters()['deviceErrors'], 0);
        });
      }),
    30_000,
  ),
);

test.run();
