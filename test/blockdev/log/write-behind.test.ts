import { closeSync, mkdirSync, openSync, rmSync, statfsSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { nativeAvailable, readNow } from 'block-io';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { LogReader, WriteLog } from '../../../src/blockdev/index.ts';
import { segmentName } from '../../../src/blockdev/log/format.ts';
import { WriteBehind } from '../../../src/blockdev/log/write-behind.ts';
import { eventually, inScratch } from '../../support/index.ts';

const behind = suite('blockdev/log/write-behind');
const KIB = 1024;

/** Whether every page of a stretch is cached. */
function cached(fd: number, offset: number, length: number): boolean {
  return readNow(fd, Buffer.alloc(length), 0, length, offset) === length;
}

behind('what was written long ago leaves the page cache, the last windows stay', () =>
  inScratch(async (directory) => {
    const path = join(directory, segmentName(1));
    const fd = openSync(path, 'wx+');
    try {
      // Memory file systems have no second place for what they hold.
      const evicts = nativeAvailable && statfsSync(directory).type !== 0x0102_1994;
      const writer = new WriteBehind(directory, 256 * KIB, 2);
      const block = Buffer.alloc(64 * KIB, 1);
      for (let at = 0; at < 4096 * KIB; at += block.length) {
        writeSync(fd, block, 0, block.length, at);
        writer.wrote(1, at + block.length);
      }
      assert.ok(!nativeAvailable || cached(fd, 4096 * KIB - block.length, block.length));
      // Pages that the kernel still writes back are passed over: ask again for the same windows.
      if (evicts)
        await eventually('eviction', () => {
          const again = new WriteBehind(directory, 256 * KIB, 0);
          again.wrote(1, 256 * KIB);
          return !cached(fd, 0, 256 * KIB);
        });
    } finally {
      closeSync(fd);
    }
  }),
);

behind('segments that are gone are passed over, and a log reads the same', () =>
  inScratch(async (directory) => {
    const gone = new WriteBehind(join(directory, 'nowhere'), 1, 0);
    gone.wrote(1, 10);
    gone.wrote(2, 10);
    const path = join(directory, 'log');
    mkdirSync(path);
    const log = WriteLog.create(path, {
      diskId: 'd',
      diskSize: 1024n * 1024n * 1024n,
      purpose: 'copy',
      segmentBytes: 20 * KIB * KIB,
    });
    const data = Buffer.alloc(KIB * KIB);
    for (let i = 0; i < 100; i++)
      await log.record('data', i * data.length, data.length, data.fill(i), undefined);
    await log.close();
    let records = 0;
    for await (const record of (await LogReader.open(path)).records()) {
      assert.is(record.address, records * data.length);
      records++;
    }
    assert.is(records, 100);
    rmSync(path, { recursive: true });
  }),
);

behind.run();
