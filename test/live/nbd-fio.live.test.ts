/** Our server under fio, which verifies what it wrote. */
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { FileStore, WriteLog, WriteTrap } from '../../src/blockdev/index.ts';
import { within } from '../support/index.ts';
import { inFolder, ok, programSuite, served } from './nbd-programs.ts';

const test = programSuite('live/nbd-fio', ['fio']);

const MIB = 1024 * 1024;

const jobs: readonly (readonly string[])[] = [
  ['--rw=randwrite', '--bs=4k', '--iodepth=32'],
  ['--rw=randrw', '--bsrange=512-128k', '--blockalign=512', '--iodepth=16', '--fsync=20'],
  ['--rw=write', '--bs=1M', '--iodepth=4'],
];

for (const logged of [false, true]) {
  test(
    `verify=crc32c over random and sequential writes, ${logged ? 'with' : 'without'} write log`,
    within(
      () =>
        inFolder(async (folder) => {
          const store = FileStore.open(join(folder, 'disk.img'), { create: BigInt(16 * MIB) });
          const device = new WriteTrap(store);
          const log = logged
            ? WriteLog.create(join(folder, 'log'), { diskId: 'disk', diskSize: store.size, purpose: 'copy' })
            : undefined;
          if (log !== undefined) device.attach(log);
          await served({ disk: device }, async (uri, server) => {
            for (const [index, job] of jobs.entries()) {
              const output = await ok(
                'fio',
                `--name=job${index}`,
                '--ioengine=nbd',
                `--uri=${uri('disk')}`,
                '--size=16M',
                '--io_size=16M',
                '--verify=crc32c',
                '--verify_fatal=1',
                '--do_verify=1',
                '--randrepeat=0',
                ...job,
              );
              assert.match(output, /err= 0/);
            }
            assert.is(server.counters()['deviceErrors'], 0);
            assert.ok(server.counters()['bytesWritten']! >= 32 * MIB);
          });
          await log?.close();
        }),
      60_000,
    ),
  );
}

test.run();
